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
TO_PYTORCH = {("1", 1): Target(1.2), ("1", 8): Target(0.9), ("0", 1): Target(1.4), ("0", 8): Target(1.4)}
TO_PLAIN = Target(1)  # never slower


def conversion_table(samples: Sequence[Sample]) -> str:
    """Time and peak memory by variant, then where the time goes."""
    rows, stages = [], []
    for variant in _in_order(s["variant"] for s in samples):
        ours, plain = (
            [s for s in samples if s["variant"] == variant and s["side"] == side] for side in ("ours", "plain")
        )
        seconds, memory = ([_median(side, key) for side in (ours, plain)] for key in ("seconds", "peak_mb"))
        for what, (mine, theirs), ratio, unit, target in (
            ("time", seconds, seconds[1] / seconds[0], "s", CONVERSION_TARGETS["seconds"]),
            ("peak memory", memory, memory[0] / memory[1], "MB", CONVERSION_TARGETS["peak_mb"]),
        ):
            name = "plain / ours" if target.at_least else "ours / plain"
            figures = [f"{x:.1f} {unit}" if unit == "s" else f"{x:.0f} {unit}" for x in (mine, theirs)]
            rows.append([variant, what, *figures, f"{name} {ratio:.2f}", *_verdict(ratio, target)])
        for stage in ours[0]["stages"]:
            figures = [f"{median(s['stages'][stage] for s in side):.1f} s" for side in (ours, plain)]
            stages.append([variant, stage, *figures])
    return "\n\n".join(
        [
            markdown(["variant", "", "ours", "plain onnx-tf", "ratio", "target", "met"], rows),
            "Where the time goes:",
            markdown(["variant", "stage", "ours", "plain onnx-tf"], stages),
        ]
    )


def latency_table(samples: Sequence[Sample]) -> str:
    """Median milliseconds of one inference, a row for each variant, batch and setting of oneDNN."""
    rows = []
    for variant in _in_order(s["variant"] for s in samples):
        for batch in _in_order(s["batch"] for s in samples):
            here = [s for s in samples if s["variant"] == variant and s["batch"] == batch]
            pytorch, runtime = (_latency(here, contender, None) for contender in ("pytorch", "onnxruntime"))
            for onednn in ("1", "0"):
                ours, frozen, plain = (_latency(here, name, onednn) for name in ("ours", "frozen", "plain"))
                rows.append(
                    [
                        variant,
                        str(batch),
                        {"1": "on", "0": "off"}[onednn],
                        *(f"{1000 * x:.1f}" for x in (ours, frozen, plain, pytorch, runtime)),
                        f"{ours / pytorch:.2f}",
                        *_verdict(ours / pytorch, TO_PYTORCH.get((onednn, batch))),
                        f"{ours / plain:.2f}",
                        *_verdict(ours / plain, TO_PLAIN),
                    ]
                )
    contenders = ["ours, ms", "ours frozen, ms", "plain onnx-tf, ms", "PyTorch, ms", "ONNX Runtime, ms"]
    ratios = ["ours / PyTorch", "target", "met", "ours / plain", "target", "met"]
    return markdown(["variant", "batch", "oneDNN", *contenders, *ratios], rows)


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


def _latency(samples: Iterable[Sample], contender: str, onednn: str | None) -> float:
    return _median([s for s in samples if (s["contender"], s["onednn"]) == (contender, onednn)], "seconds")


def _median(samples: Iterable[Sample], key: str) -> float:
    return median(sample[key] for sample in samples)


def _verdict(ratio: float, target: Target | None) -> list[str]:
    return ["", ""] if target is None else [str(target), "yes" if target.met(ratio) else "no"]


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
