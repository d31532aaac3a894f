"""The head of a model card: handle, one sentence, and the comment tags that TF Hub and Kaggle Models read.

The form is that of https://www.tensorflow.org/hub/writing_documentation: the handle in the first line, a sentence in
the second, then tags, one a line, up to the first section. Values of `task`, `dataset`, `network-architecture` and
`license` are from the lists in https://github.com/tensorflow/tfhub.dev/tree/master/tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Manifest = Mapping[str, Any]

PUBLISHER = "mixers-to-tensorflow"
REPOSITORY = f"https://github.com/{PUBLISHER}/mixers-to-tensorflow"
FAMILIES = {"convmixer": "ConvMixer", "mixer": "MLP-Mixer"}
FRAMEWORKS = {"convmixer": "PyTorch", "mixer": "JAX"}

_TASKS = {"classification": "image-classification", "fe": "image-feature-vector"}
_ARCHITECTURES = {"mixer": "mixer", "convmixer": "cnn"}  # the list has no ConvMixer, and it is one of convolutions
_DATASETS = {"imagenet1k": "imagenet-ilsvrc-2012-cls", "imagenet21k": "imagenet-21k"}
_DATASET_NAMES = {"imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k"}
_COLAB = REPOSITORY.replace("github.com", "colab.research.google.com/github") + "/blob/main/"
_NOTEBOOKS = {"classification": "classification.ipynb", "fe": "fine-tune.ipynb"}


def card_header(manifest: Manifest) -> str:
    """Handle, sentence and tags; a synthetic model's sentence begins with what it is."""
    tags = "\n".join(f"<!-- {key}: {value} -->" for key, value in card_tags(manifest))
    return f"# Module {PUBLISHER}/{manifest['name']}/1\n{_sentence(manifest)}\n\n{tags}"


def card_tags(manifest: Manifest) -> list[tuple[str, str]]:
    """The tags, in order. `language` is left out: it is for models of text."""
    model = manifest["model"]
    tags = [
        ("asset-path", _asset_path(manifest)),
        ("task", _TASKS[manifest["head"]]),
        ("network-architecture", _ARCHITECTURES[model["family"]]),
    ]
    if manifest["weights"] == "official" and model["labels"]:
        tags.append(("dataset", _DATASETS[model["labels"]]))
    if manifest.get("training"):
        tags.append(("dataset", "other"))  # what it was fine-tuned on
    return [
        *tags,
        ("fine-tunable", "true" if gradient_rows(manifest) else "false"),
        ("format", "saved_model_2"),
        ("license", licence(manifest)[0].lower()),
        ("colab", _COLAB + _NOTEBOOKS[manifest["head"]]),
    ]


def gradient_rows(manifest: Manifest) -> list[Mapping[str, Any]]:
    """Parity's rows on gradients by the trainable variables, if all of them passed; else none.

    Fine-tunable is what was measured to be: a model whose gradients nobody compared is not called so. No source
    framework has a fine-tuned model: where it is stored as float16, gradients are compared with its float32 file only.
    """
    parity = manifest["parity"]
    if manifest.get("training"):
        return []
    if "rows" not in parity:  # inside the artefact, whose bytes depend on no measurement
        return [row for row in parity["compared"] if row["output"] == "gradients"] if parity["passed"] is True else []
    rows = [row for row in parity["rows"] if row["output"] == "gradients"]
    return rows if all(row["passed"] is True for row in rows) else []


def licence(manifest: Manifest) -> tuple[str, str]:
    """Name and address of the weights' licence: their authors', "custom" where it is not known here."""
    model = manifest["model"]
    return {
        "official": (model["licence"], model["licence_url"]),
        "custom": ("custom", ""),
        "synthetic": ("Apache-2.0", f"{REPOSITORY}/blob/main/LICENSE"),  # this repository made them
    }[manifest["weights"]]


def _sentence(manifest: Manifest) -> str:
    model = manifest["model"]
    head = {"classification": "image classifier", "fe": "image feature extractor"}[manifest["head"]]
    weights = {
        "official": f"with its authors' weights, trained on {_DATASET_NAMES.get(model['labels'], 'other data')}",
        "custom": "with the weights of a local checkpoint file",
        "synthetic": "with random weights, which recognise nothing",
    }[manifest["weights"]]
    tuned = ", fine-tuned" if manifest.get("training") else ""
    if tuned and manifest["weights"] == "synthetic":
        weights, tuned = "fine-tuned from random weights", ""
    loud = "SYNTHETIC WEIGHTS, for tests only: " if manifest["weights"] == "synthetic" else ""
    return f"{loud}{FAMILIES[model['family']]} {head} {manifest['variant']}, {weights}{tuned}."


def _asset_path(manifest: Manifest) -> str:
    # Only official weights are released; other artefacts lie beside their card.
    released = manifest["weights"] == "official" and not manifest.get("training")
    return (f"{REPOSITORY}/releases/latest/download/" if released else "") + f"{manifest['name']}.tar.gz"
