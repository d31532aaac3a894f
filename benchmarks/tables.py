"""From samples to tables: medians, their ratios, and whether each is where it should be. Nothing is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from utils.files import write_text
from utils.tables import markdown

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What a ratio should be at most, or at least."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def met(self, ratio: float) -> bool:
        """Of the ratio itself, not of its rounded print."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound


CONVERSION_TARGETS = {"seconds": Target(4, at_least=True), "peak_mb": Target(0.5)}
TO_PYTORCH = {  # with oneDNN
    ("convmixer_1024_20", 1): Target(1.2),
    ("convmixer_1024_20", 8): Target(0.8),
    ("convmixer_768_32", 1): Target(1),
    ("convmixer_768_32", 8): Target(0.6),
}
TO_PYTORCH_WITHOUT = Target(1.4)
TO_PLAIN = Target(1)  # never slower
SWITCH = {"1": "on", "0": "off", None: "n/a"}  # what TF_ENABLE_ONEDNN_OPTS is


def conversion_table(samples: Sequence[Sample]) -> str:
    """Time and peak memory by variant, then where the time goes."""
    rows, stages = [], []
    sides = grouped(samples, "variant", "side")
    for variant in dict.fromkeys(s["variant"] for s in samples):
        ours, plain = sides[variant, "ours"], sides[variant, "plain"]
        for what, key, unit, digits in (("time", "seconds", "s", 1), ("peak memory", "peak_mb", "MB", 0)):
            target = CONVERSION_TARGETS[key]
            mine, theirs = (median_of(side, key) for side in (ours, plain))
            ratio, met = verdict(theirs / mine if target.at_least else mine / theirs, target)[0::2]
            name = "plain / ours" if target.at_least else "ours / plain"
            figures = [f"{x:.{digits}f} {unit}" for x in (mine, theirs)]
            rows.append([variant, what, *figures, f"{name} {ratio}", str(target), met])
        for stage in ours[0]["stages"]:
            figures = [f"{median(s['stages'][stage] for s in side):.1f} s" for side in (ours, plain)]
            stages.append([variant, stage, *figures])
    head = markdown(["variant", "", "ours", "plain onnx-tf", "ratio", "target", "met"], rows)
    return f"{head}\n\nWhere the time goes:\n\n{markdown(['variant', 'stage', 'ours', 'plain onnx-tf'], stages)}"


def latency_table(samples: Sequence[Sample]) -> str:
    """Median milliseconds of one inference, a row for each variant, batch, setting of oneDNN and machine."""
    rows = []
    for (variant, batch, run), group in sorted(grouped(samples, "variant", "batch", "run").items()):
        sides = grouped(group, "contender", "onednn")
        for onednn in ("1", "0"):
            keys = [*((name, onednn) for name in ("ours", "frozen", "plain")), ("pytorch", None), ("onnxruntime", None)]
            medians = [median_of(sides[key], "seconds") for key in keys]
            ours, _, plain, pytorch, _ = medians
            passes = [str(sides[name, onednn][0].get("passes", "")) for name in ("ours", "plain")]
            target = TO_PYTORCH.get((variant, batch)) if onednn == "1" else TO_PYTORCH_WITHOUT
            to_pytorch = verdict(ours / pytorch, target)
            figures = [*(f"{1000 * x:.1f}" for x in medians), *to_pytorch, *verdict(ours / plain, TO_PLAIN), *passes]
            rows.append([variant, str(batch), SWITCH[onednn], *figures, run])
    contenders = ["ours, ms", "ours frozen, ms", "plain onnx-tf, ms", "PyTorch, ms", "ONNX Runtime, ms"]
    ratios = ["ours / PyTorch", "target", "met", "ours / plain", "target", "met"]
    return markdown(["variant", "batch", "oneDNN", *contenders, *ratios, "our passes", "plain's", "run"], rows)


def grouped(samples: Iterable[Sample], *keys: str) -> dict[tuple, list[Sample]]:
    """The samples by these values of theirs, in the order in which each first comes."""
    groups: dict[tuple, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample[key] for key in keys), []).append(sample)
    return groups


def median_of(samples: Iterable[Sample], key: str) -> float:
    """Of those that have it."""
    return median(sample[key] for sample in samples if key in sample)


def verdict(ratio: float, target: Target | None) -> list[str]:
    """Three cells: the ratio, the target if there is one, and whether it is met."""
    return [f"{ratio:.2f}", *(["", ""] if target is None else [str(target), "yes" if target.met(ratio) else "no"])]


def write(folder: Path, name: str, title: str, notes: Mapping[str, str], table: str, samples: Sequence[Sample]) -> Path:
    """`name`.md, the table under its title and notes, and `name`.json, all samples; each appears whole or not at all.

    Returns the path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = [f"- {key}: {value}" for key, value in notes.items()]
    lines = [f"# {title}", "", "Written by the command below, not by hand.", "", *facts, "", table, ""]
    # A sample a line: readable, and a change of one is a change of one line.
    rounded = ",\n".join(json.dumps(_rounded(sample)) for sample in samples)
    write_text(folder / f"{name}.json", f'{{"notes": {json.dumps(notes, indent=1)},\n"samples": [\n{rounded}\n]}}\n')
    write_text(folder / f"{name}.md", "\n".join(lines))
    return folder / f"{name}.md"


def merged(path: Path, samples: Sequence[Sample], *keys: str) -> list[Sample]:
    """The samples in the .json at `path`, if it is there, with these instead of those alike in `keys`, or last."""
    before = json.loads(path.read_text(encoding="utf-8"))["samples"] if path.is_file() else []
    told = [sample for sample in before if all(key in sample for key in keys)]  # others are of an older kind
    groups = grouped(told, *keys) | grouped(samples, *keys)
    return [sample for group in groups.values() for sample in group]


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
