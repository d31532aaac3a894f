"""How a model card begins: handle, one sentence, tags; then what the model is, what it is for, and what it is not for.

The form is that of https://www.tensorflow.org/hub/writing_documentation: the handle in the first line, a sentence in
the second, then comment tags, which TF Hub and Kaggle Models read, one a line, up to the first section. Values of
`task`, `dataset`, `network-architecture` and `license` are from the lists in
https://github.com/tensorflow/tfhub.dev/tree/master/tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.families import FAMILIES
from utils.parity.judge import worst_first
from utils.parity.report import Report

Manifest = Mapping[str, Any]

PUBLISHER = "mixers-to-tensorflow"
REPOSITORY = f"https://github.com/{PUBLISHER}/mixers-to-tensorflow"

_TASKS = {"classification": "image-classification", "fe": "image-feature-vector"}
_DATASETS = {"imagenet1k": "imagenet-ilsvrc-2012-cls", "imagenet21k": "imagenet-21k"}
DATASET_NAMES = {"imagenet1k": "ImageNet-1k", "imagenet21k": "ImageNet-21k"}
_COLAB = REPOSITORY.replace("github.com", "colab.research.google.com/github") + "/blob/main/"
_NOTEBOOKS = {"classification": "classification.ipynb", "fe": "fine-tune.ipynb"}


def card_header(manifest: Manifest) -> str:
    """Handle, sentence and tags; a synthetic model's sentence begins with what it is."""
    tags = "\n".join(f"<!-- {key}: {value} -->" for key, value in card_tags(manifest))
    return f"# Module {PUBLISHER}/{manifest['name']}/1\n{summary(manifest)}\n\n{tags}"


def card_tags(manifest: Manifest) -> list[tuple[str, str]]:
    """The tags, in order. `language` is left out: it is for models of text."""
    model, official, tuned = manifest["model"], manifest["weights"] == "official", manifest.get("training")
    # Only official weights are released; other artefacts lie beside their card.
    folder = f"{REPOSITORY}/releases/latest/download/" if official and not tuned else ""
    datasets = [_DATASETS[model["labels"]]] if official and model["labels"] else []
    return [
        ("asset-path", f"{folder}{manifest['name']}.tar.gz"),
        ("task", _TASKS[manifest["head"]]),
        ("network-architecture", FAMILIES[model["family"]].hub_architecture),
        *(("dataset", dataset) for dataset in (*datasets, *(["other"] if tuned else []))),  # what it was tuned on
        ("fine-tunable", "true" if gradient_rows(manifest) else "false"),
        ("format", "saved_model_2"),
        ("license", licence(manifest)[0].lower()),
        ("colab", _COLAB + _NOTEBOOKS[manifest["head"]]),
    ]


def gradient_rows(manifest: Manifest) -> list[Mapping[str, Any]]:
    """Parity's rows on gradients by the trainable variables, if all of them passed; else none.

    Fine-tunable is what was measured to be: a model whose gradients nobody compared is not called so, and no source
    framework has a fine-tuned model.
    """
    if manifest.get("training"):
        return []
    parity = manifest["parity"]  # inside the artefact, whose bytes depend on no measurement, without rows
    rows = [row for row in parity.get("rows", parity.get("compared")) if row["output"] == "gradients"]
    return rows if all(row.get("passed", parity["passed"]) is True for row in rows) else []


def licence(manifest: Manifest) -> tuple[str, str]:
    """Name and address of the weights' licence: their authors', "custom" where it is not known here."""
    model = manifest["model"]
    return {
        "official": (model["licence"], model["licence_url"]),
        "custom": ("custom", ""),
        "synthetic": ("Apache-2.0", f"{REPOSITORY}/blob/main/LICENSE"),  # this repository made them
    }[manifest["weights"]]


def summary(manifest: Manifest) -> str:
    """What it is, in one sentence."""
    model = manifest["model"]
    head = {"classification": "image classifier", "fe": "image feature extractor"}[manifest["head"]]
    weights = {
        "official": f"with its authors' weights, trained on {DATASET_NAMES.get(model['labels'], 'other data')}",
        "custom": "with the weights of a local checkpoint file",
        "synthetic": "with random weights, which recognise nothing",
    }[manifest["weights"]]
    tuned = ", fine-tuned" if manifest.get("training") else ""
    if tuned and manifest["weights"] == "synthetic":
        weights, tuned = "fine-tuned from random weights", ""
    loud = "SYNTHETIC WEIGHTS, for tests only: " if manifest["weights"] == "synthetic" else ""
    return f"{loud}{FAMILIES[model['family']].title} {head} {manifest['variant']}, {weights}{tuned}."


SYNTHETIC = "random numbers; the model recognises nothing, and its outputs mean nothing"


def overview(manifest: Manifest) -> str:
    """What the model is, whose weights it has, and whether it can be fine-tuned."""
    model, training = manifest["model"], manifest.get("training")
    family = FAMILIES[model["family"]].title
    head = "classifier (logits)" if manifest["head"] == "classification" else "feature extractor (pooled features)"
    weights = {
        "official": f"official weights, trained on: {model['trained_on'].rstrip('.')}",
        "custom": "weights of a local checkpoint file",
        "synthetic": "synthetic (random) weights",
    }[manifest["weights"]]
    lines = [
        f"## Overview\n\n{notice(manifest)}{family} `{manifest['variant']}` as a TensorFlow SavedModel: {head}, "
        f"{manifest['parameters']:,} parameters.",
        f"It has {weights}.",
    ]
    if training:
        lines.append("It was fine-tuned afterwards: see Training.")
    elif manifest["weights"] == "official" and manifest["head"] == "classification" and model["top1"] is not None:
        lines.append(f"Reported ImageNet-1k top-1 accuracy: {model['top1']} % ({model['top1_source']}).")
    if rows := gradient_rows(manifest):
        measured = ""
        if "tolerance" in rows[0]:
            worst = worst_first(Report.from_json({"rows": rows}).rows)[0]
            measured = f" (worst relative error {worst.figure:.1e}, allowed {worst.tolerance:.0e})"
        lines.append(
            f"It can be fine-tuned: gradients by all trainable variables agree with the source framework's{measured}."
        )
    else:
        lines.append("Its gradients were not compared with the source framework's, so it is not called fine-tunable.")
    return "\n".join(lines)


def notice(manifest: Manifest) -> str:
    """What each section that could mislead begins with, if the weights are synthetic; else nothing."""
    if manifest["weights"] != "synthetic":
        return ""
    if manifest.get("training"):
        known = "all it knows is from the training below"
        return f"> **From SYNTHETIC WEIGHTS:** fine-tuned from random numbers; {known}.\n\n"
    return f"> **SYNTHETIC WEIGHTS:** {SYNTHETIC}.\n\n"


def intended_use(manifest: Manifest) -> str:
    """What the model is for, and what is not known about it."""
    title = "## Intended use and limits\n\n"
    if manifest["weights"] == "synthetic" and not manifest.get("training"):
        return (
            f"{title}To try the conversion, the file format and the code around it, and **nothing else**: the weights "
            f"are synthetic, {SYNTHETIC}. Do not publish it as a model."
        )
    use = {
        "classification": "To classify photographs into the classes that it was trained on, one for each picture. "
        "It answers with one of them whatever the picture shows; a high probability is no proof of being right.",
        "fe": "To turn photographs into features: for transfer learning, search by similarity, or clustering.",
    }[manifest["head"]]
    source, unknown = "its source computes", "accuracy, robustness and fairness were not measured here"
    if manifest.get("training"):
        source = "the trained model computed"
        unknown = "how often it was right in validation stands under Training, and nothing else was measured here"
    return (
        f"{title}{use}\n\nParity says that the TensorFlow model computes what {source}, not how good that "
        f"is: {unknown}. Photographs from the web, such as ImageNet's, "
        "have the gaps and biases of their times and places, and so has what was trained on them: decisions about "
        "people need an evaluation of their own."
    )
