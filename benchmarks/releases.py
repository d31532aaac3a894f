"""The tables of docs/releases.md: what was released and what that took, from copies of a batch's own files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from utils import release
from utils.batch import report as batch_report

# name in assets/tables: where a batch leaves it in its output folder
FILES = {"releases.json": Path(release.INDEX), "batch.json": Path(batch_report.FOLDER, batch_report.FILE)}
NOT_YET = "*`make release` and `python -m benchmarks.docs exports` write this table; no run has written it yet.*"


def keep(output_dir: Path, tables: Path) -> list[Path]:
    """Copies what a batch left in `output_dir`; returns the copies. FileNotFoundError where there was no batch."""
    return [Path(shutil.copyfile(output_dir / source, tables / name)) for name, source in FILES.items()]


def releases_table(tables: Path) -> str:
    """Every artefact of the last batch that was kept, with the latencies that were measured; no smaller files."""
    index = _read(tables / "releases.json")
    if not index:
        return NOT_YET
    entries = [entry for entry in index["artefacts"] if not entry["derived_from"]]
    return release.table(entries, latencies(tables))


def batch_table(tables: Path) -> str:
    """Time, memory and disk of that batch."""
    report = _read(tables / "batch.json")
    return batch_report.table(report) if report else NOT_YET


def latencies(tables: Path) -> dict[str, float]:
    """Seconds of the fastest inference of one image, by artefact, of `benchmarks.release_latency`."""
    measured = _read(tables / "release_latency.json") or {"samples": []}
    return {sample["name"]: sample["seconds"] for sample in measured["samples"]}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
