"""The model card: Markdown, made by `card.md.jinja` from the manifest and from nothing else; one for the Hub, too.

Values of the tags `task`, `dataset`, `network-architecture` and `license` are from the lists in
https://github.com/tensorflow/tfhub.dev/tree/master/tags; the form is that of
https://www.tensorflow.org/hub/writing_documentation. A card on the Hugging Face Hub begins with YAML instead:
https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from utils.artefact.assumed import assumptions, is_proved, readings
from utils.artefact.manifest import PUBLISHER, REPOSITORY, is_packed, licence
from utils.families import FAMILIES
from utils.families.variants import OWN, get_variant
from utils.parity.judge import RATIO, Row
from utils.parity.report import Report
from utils.tables import markdown

if TYPE_CHECKING:
    import jinja2

Manifest = Mapping[str, Any]
Cells = tuple[str, ...]

SYNTHETIC = "random numbers; the model recognises nothing, and its outputs mean nothing"

_TELLERS = {
    "given": "whoever converted it",
    "file": "the checkpoint file",
    "assumed": "nobody: **assumed**",
    "proved": "numbers from its maker's own code",
}
_TASKS = {"classification": "image-classification", "fe": "image-feature-vector"}
_HUB_TASKS = {"classification": "image-classification", "fe": "image-feature-extraction"}
_DATASETS = {"imagenet1k": "imagenet-ilsvrc-2012-cls", "imagenet21k": "imagenet-21k"}
_HUB_DATASETS = {"imagenet1k": "imagenet-1k", "imagenet21k": "imagenet-21k"}
_COLAB = REPOSITORY.replace("github.com", "colab.research.google.com/github") + "/blob/main/"
_NOTEBOOKS = {"classification": "classification.ipynb", "fe": "fine-tune.ipynb"}


def model_card(manifest: Manifest, repository: str = "", words: str = "") -> str:
    """The README.md of an artefact.

    repository: `owner/name` on the Hugging Face Hub, if the card is for there: it has a title in place of TF Hub's
    handle and tags, and tells how to fetch the model from that. words: Markdown by the maker of custom weights.
    """
    inside = is_packed(manifest)  # inside the artefact, whose bytes depend on no measurement
    return _template().render(
        m=manifest,
        model=manifest["model"],
        family=FAMILIES[manifest["model"]["family"]],
        repository=repository,
        words=words,
        official=manifest["weights"] == "official",
        synthetic=manifest["weights"] == "synthetic",
        classifier=manifest["head"] == "classification",
        title=manifest["name" if manifest["variant"] == OWN else "variant"],
        assumed=assumptions(manifest),
        readings=[
            (f"`{each.parameter}`", each.value, _TELLERS[each.origin])
            for part in readings(manifest).values()
            for each in part
        ],
        proved=is_proved(manifest),
        output=next(iter(manifest["signatures"]["serving_default"]["outputs"])),
        fine_tunable=_fine_tunable(manifest),
        inside=inside,
        tags=_tags(manifest),
        loss=_loss(manifest),
        signatures=[
            (f"`{name}`", _tensors(given["inputs"]), _tensors(given["outputs"]))
            for name, given in manifest["signatures"].items()
        ],
        pixels=manifest.get("preprocessing_parity", {}).get("rows"),
        provenance=list(_provenance(manifest)),
        cases=_compared(manifest) if inside else _figures(manifest),
        training=list(_training(manifest.get("training") or {})),
        versions=[(library, str(version)) for library, version in manifest["versions"].items()],
        licence=licence(manifest),
    )


def _loss(manifest: Manifest) -> str:
    """What is known of the loss that the classifier was trained with, in a sentence: a sigmoid makes other numbers."""
    known = get_variant(manifest["variant"]).loss if manifest["weights"] == "official" else ""
    if manifest.get("training"):
        known = "softmax, by the fine-tuning below"
    if not known:
        return "Which loss it was trained with is not known: after any but softmax cross-entropy they mean little."
    of_its_own = " With it, each class has a probability of its own, sigmoid(logit); these need not add up to 1."
    return f"The model's loss: {known}.{of_its_own if known.startswith('sigmoid') else ''}"


def _template() -> jinja2.Template:
    import jinja2  # here: the plan of a release is made with nothing installed

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.globals |= {"markdown": markdown, "listed": _listed, "PUBLISHER": PUBLISHER, "RATIO": RATIO}
    environment.globals["SYNTHETIC"] = SYNTHETIC
    return environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))


def hub_card(manifest: Manifest, repository: str, words: str = "") -> str:
    """README.md of a repository on the Hugging Face Hub, `owner/name`. words: as of `model_card`."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{hub_header(manifest)}\n---\n\n{model_card(manifest, repository, words)}"))


def hub_header(manifest: Manifest) -> str:
    """The YAML. Of weights that are not official it names neither data nor origin. ParameterError as `get_variant`."""
    from huggingface_hub import EvalResult, ModelCardData

    model, mirrors, labels, reported = manifest["model"], [], None, {}
    if manifest["weights"] == "official" and not manifest.get("training"):
        if manifest["head"] == "classification" and model["top1"]:
            said, _, address = model["top1_source"].rpartition(", ")
            data = {"dataset_type": _HUB_DATASETS["imagenet1k"], "dataset_name": "ImageNet-1k"}
            figure = {"metric_type": "accuracy", "metric_name": "top-1, as its authors report", "source_name": said}
            result = EvalResult(
                "image-classification", **data, **figure, metric_value=model["top1"], source_url=address
            )
            reported = {"model_name": manifest["name"], "eval_results": [result]}
        mirrors = [source.repository for source in get_variant(manifest["variant"]).sources if source.repository]
        labels = model["labels"]
    return ModelCardData(
        license=licence(manifest)[0].lower(),
        library_name="keras" if "keras" in manifest else "tensorflow",
        pipeline_tag=_HUB_TASKS[manifest["head"]],
        datasets=[_HUB_DATASETS[labels]] if labels else None,
        base_model=mirrors[0] if mirrors else None,
        # Of the four relations that the Hub knows, that of conversions. Without it, the Hub takes it for fine-tuned.
        base_model_relation="quantized" if mirrors else None,
        tags=["tensorflow", "saved-model", FAMILIES[model["family"]].title.lower()],
        **reported,
    ).to_yaml()


def _tags(manifest: Manifest) -> list[tuple[str, str]]:
    """TF Hub's tags; `language` is left out: it is for models of text."""
    model, official, tuned = manifest["model"], manifest["weights"] == "official", manifest.get("training")
    # Only official weights are released; other artefacts lie beside their card.
    folder = f"{REPOSITORY}/releases/latest/download/" if official and not tuned else ""
    datasets = [_DATASETS[model["labels"]]] if official and model["labels"] else []
    return [
        ("asset-path", f"{folder}{manifest['name']}.tar.gz"),
        ("task", _TASKS[manifest["head"]]),
        ("network-architecture", FAMILIES[model["family"]].hub_architecture),
        *(("dataset", dataset) for dataset in (*datasets, *(["other"] if tuned else []))),  # what it was tuned on
        ("fine-tunable", "true" if _fine_tunable(manifest) else "false"),
        ("format", "saved_model_2"),
        ("license", licence(manifest)[0].lower()),
        ("colab", _COLAB + _NOTEBOOKS[manifest["head"]]),
    ]


def _fine_tunable(manifest: Manifest) -> bool:
    """Whether gradients by the trainable variables were compared with the source framework's, and passed.

    No source framework has a fine-tuned model.
    """
    parity = manifest["parity"]  # inside the artefact, whose bytes depend on no measurement, without rows
    rows = parity.get("rows", parity.get("compared"))
    passed = [row.get("passed", parity["passed"]) for row in rows if row["output"] == "gradients"]
    return bool(passed) and all(passed) and not manifest.get("training")


def _tensors(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"`{name}` {tensor['dtype']} {_shape(tensor['shape'])}" for name, tensor in tensors.items())


def _shape(sizes: Sequence[int | None] | None) -> str:
    if sizes is None:
        return "any shape"
    return _listed("B" if index == 0 and size is None else size or "any" for index, size in enumerate(sizes))


def _listed(values: Iterable[object]) -> str:
    return f"[{', '.join(f'{value:g}' if isinstance(value, float) else str(value) for value in values)}]"


def _provenance(manifest: Manifest) -> Iterator[Cells]:
    source = manifest["source"]
    yield "variant", f"`{manifest['variant']}`"
    yield "weights", f"**{manifest['weights']}**"
    if source.get("url"):
        yield "url", f"<{source['url']}>"
    if source.get("path"):  # a path tells about the machine that it is on; the file's name is enough
        yield "file", f"`{PurePath(source['path']).name}`"
    yield "SHA-256", f"`{source['sha256']}`"
    yield "upstream", f"<{manifest['model']['upstream_url']}>"
    yield from ((key.replace("_", " "), f"`{value}`") for key, value in manifest.get("settings", {}).items())
    yield from (("note", note) for note in manifest.get("notes", ()))


def _compared(manifest: Manifest) -> list[Cells]:
    rows = manifest["parity"]["compared"]
    return [tuple(str(row[key] or "") for key in ("output", "input", "batch", "arrays")) for row in rows]


def _figures(manifest: Manifest) -> list[Cells]:
    """Each case's figures: those of that array, of perhaps many, which comes nearest to what is allowed."""
    by_case: dict[tuple[str, str, int], list[Row]] = {}
    for row in Report.from_json(manifest["parity"]).rows:
        by_case.setdefault(row.case, []).append(row)
    return [_worst(rows) for rows in by_case.values()]


def _worst(rows: Sequence[Row]) -> Cells:
    worst = max(rows, key=lambda row: row.severity)
    label = worst.output if len(rows) == 1 else f"{worst.output}, worst of {len(rows)}"
    source = ("", "") if worst.source is None else (f"{worst.source:.1e}", f"{worst.ratio:.1f}")
    shares = [f"{share:.1%}" if share is not None else "" for share in (worst.top1, worst.top5)]
    figures = (f"{worst.figure:.1e}", *source, f"{worst.max_abs:.1e}", *shares, f"{worst.tolerance:.0e}")
    return label, worst.input, str(worst.batch or ""), *figures


def _training(training: Mapping[str, Any]) -> Iterator[Cells]:
    kept = training.get("best_epoch")
    for key, value in training.items():
        for inner, item in value.items() if isinstance(value, Mapping) else [(None, value)]:
            if key == "history" and _are_numbers(item) and kept in range(1, len(item) + 1):
                item = f"{item[kept - 1]:.4g} in epoch {kept} of {len(item)}, the one that was kept"
            yield key if inner is None else f"{key}: {inner}", str(item)


def _are_numbers(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, int | float) for each in found)
