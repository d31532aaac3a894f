"""How one's own checkpoint was trained, who says so, and what is assumed: for cards, notebooks and commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.artefact.manifest import TOLD
from utils.families import FAMILIES

_ACTIVATIONS = {"gelu": "gelu (the exact one)", "gelu_tanh": "gelu_tanh (the approximation)", "relu": "relu"}


class Reading(NamedTuple):
    """A parameter of a conversion, its value as the user would give it, and who says so.

    origin: "given", "file" or "assumed", or "proved" by numbers from the maker's own code.
    """

    parameter: str
    value: str
    origin: str


def readings(manifest: Mapping[str, Any]) -> dict[str, list[Reading]]:
    """How one's own checkpoint was read: of "architecture" and "preprocessing", parameter by parameter.

    Empty for other weights, whose authors published it, and for a fine-tuned model, which is what its training made it.

    manifest: or a record, or just their fields `weights`, `model`, `training` and `reference`.
    """
    if manifest["weights"] != "custom" or manifest.get("training"):
        return {}
    values, model, found = _values(manifest["model"]), manifest["model"], {}
    for part, parameters in TOLD.items():
        sources = model[part].get("sources", {})
        told = {key: "proved" if _is_proved(manifest, part) else sources.get(key, "assumed") for key in parameters}
        found[part] = [Reading(key, values[key], origin) for key, origin in told.items()]
    return found


def assumptions(manifest: Mapping[str, Any]) -> list[str]:
    """What is assumed of one's own checkpoint, a paragraph on each part of it, and how to say otherwise.

    manifest: as of `readings`.
    """
    found = []
    for part, rows in readings(manifest).items():
        if assumed := [row for row in rows if row.origin == "assumed"]:
            values = "; ".join(f"{row.parameter} {row.value}" for row in assumed)
            found.append(
                f"ASSUMED {part}, because neither the checkpoint nor a parameter tells it: {values}. If the model was "
                "trained otherwise, its answers here are wrong, and parity does not show it. To correct it, convert "
                f"again with {', '.join(f'`{row.parameter}`' for row in assumed)}; to prove it, with `reference`."
            )
    return found


def is_proved(manifest: Mapping[str, Any]) -> bool:
    """Whether numbers from the maker's own code agree with the source model."""
    return (manifest.get("reference") or {}).get("verdict") == "proved"


def _is_proved(manifest: Mapping[str, Any], part: str) -> bool:
    # Of one's own preprocessing, answers for photographs are the proof.
    return is_proved(manifest) and (part == "architecture" or manifest["reference"].get("image_verdict") == "proved")


def _values(model: Mapping[str, Any]) -> dict[str, str]:
    architecture, images = model["architecture"], model["preprocessing"]
    epsilon = architecture.get(FAMILIES[model["family"]].architecture.EPSILON)
    return {
        "activation": _ACTIVATIONS.get(architecture.get("activation"), "unknown"),
        "epsilon": "unknown" if epsilon is None else f"{epsilon:g}",
        "crop_pct": f"{images['crop'] / images['resize']:.3g}",
        "image_size": f"{images['crop']}",
        "interpolation": images["interpolation"],
        **{key: ", ".join(f"{value / 255:.4g}" for value in images[key]) for key in ("mean", "std")},
    }
