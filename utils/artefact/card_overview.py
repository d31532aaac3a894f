"""The first sections of a model card: what the model is, what it is for, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.artefact.card_header import FAMILIES, Manifest, gradient_rows

SYNTHETIC = "random numbers; the model recognises nothing, and its outputs mean nothing"


def overview(manifest: Manifest) -> str:
    """What the model is, whose weights it has, and whether it can be fine-tuned."""
    model, training = manifest["model"], manifest.get("training")
    family = FAMILIES[model["family"]]
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
    if manifest.get("storage") == "float16":
        lines.append("Its kernels are stored as float16, and are float32 variables, trainable, once it is loaded.")
    if training:
        lines.append("It was fine-tuned afterwards: see Training.")
    elif manifest["weights"] == "official" and manifest["head"] == "classification" and model["top1"] is not None:
        lines.append(f"Reported ImageNet-1k top-1 accuracy: {model['top1']} % ({model['top1_source']}).")
    if rows := gradient_rows(manifest):
        agree = "It can be fine-tuned: gradients by all trainable variables agree with the source framework's"
        if manifest.get("storage") == "float16":
            agree = (
                "It can be fine-tuned: gradients by all trainable variables agree with those of the float32 artefact, "
                "kernels rounded, whose own agree with the source framework's"
            )
        measured = ""
        if "tolerance" in rows[0]:
            worst = max(rows, key=lambda row: figure(row) / row["tolerance"])
            measured = f" (worst relative error {figure(worst):.1e}, allowed {worst['tolerance']:.0e})"
        lines.append(f"{agree}{measured}.")
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


def figure(row: Mapping[str, Any]) -> float:
    """The error that a parity row's tolerance is held against."""
    return row["relative"] if row.get("relative_l2") is None else row["relative_l2"]
