"""The model card on the Hugging Face Hub: the same, with the YAML that the Hub reads at its beginning.

Its keys are those of https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from __future__ import annotations

from utils.artefact.card import model_card
from utils.artefact.card_head import DATASET_NAMES, Manifest, licence
from utils.families import FAMILIES
from utils.families.variants import get_variant

_TASKS = {"classification": "image-classification", "fe": "image-feature-extraction"}


def hub_card(manifest: Manifest, repository: str) -> str:
    """README.md of the repository, `owner/name`."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{hub_header(manifest)}\n---\n\n{model_card(manifest, repository)}"))


def hub_header(manifest: Manifest) -> str:
    """The YAML. Of weights that are not official it names neither data nor origin. ParameterError as `get_variant`."""
    from huggingface_hub import ModelCardData

    model, mirrors, labels = manifest["model"], [], None
    if manifest["weights"] == "official" and not manifest.get("training"):
        mirrors = [source.repository for source in get_variant(manifest["variant"]).sources if source.repository]
        labels = model["labels"]
    return ModelCardData(
        license=licence(manifest)[0].lower(),
        library_name="keras" if "keras" in manifest else "tensorflow",
        pipeline_tag=_TASKS[manifest["head"]],
        datasets=[DATASET_NAMES[labels].lower()] if labels else None,
        base_model=mirrors[0] if mirrors else None,
        # Of the four relations that the Hub knows, that of conversions. Without it, the Hub takes it for fine-tuned.
        base_model_relation="quantized" if mirrors else None,
        tags=["tensorflow", "saved-model", FAMILIES[model["family"]].title.lower()],
    ).to_yaml()
