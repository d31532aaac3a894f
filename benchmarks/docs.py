"""Puts the tables and pictures that runs have written into the pages of docs/: `python -m benchmarks.docs [RUN ...]`.

A table stands in a page between `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has the names. "variants_FAMILY"
comes from the registry, "releases" and "batch" from a batch. What a benchmark writes, assets/tables/NAME.md, is a page
of its own: docs/ link to it, so that no table stands twice. A RUN is an executed conversion notebook, whose pictures
become assets/pictures/*.png, or the output folder of a batch.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utils.batch import report as batch_report
from utils.families.variants import VARIANTS, Variant
from utils.release.index import BATCH, INDEX
from utils.release.lists import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
RUNS = ROOT / "assets" / "tables"  # what the benchmarks write
PICTURES = {"plot(report)": ("parity", "photographs")}  # what a cell's source has: the names of its pictures, in order
TABLES: dict[str, Callable[[], str]] = {
    "variants_convmixer": lambda: variants_table("convmixer"),
    "variants_mixer": lambda: variants_table("mixer"),
    "releases": lambda: releases_table(RUNS),
    "batch": lambda: batch_table(RUNS),
}
# name in assets/tables: where a batch leaves it in its output folder
BATCH_FILES = {"releases.json": Path(INDEX), "batch.json": Path(BATCH, batch_report.FILE)}
NOT_YET = "*`make release` and `python -m benchmarks.docs exports` write this table; no run has written it yet.*"
_BLOCK = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with each table's block filled. Raises KeyError for a name that is not in `TABLES`."""
    return _BLOCK.sub(lambda match: f"{match[1]}{_table(match['name'])}\n{match[3]}", text)


def _table(name: str) -> str:
    if name not in TABLES:
        raise KeyError(
            f"a page asks for the table {name!r}; there are {', '.join(TABLES)}. "
            "A table that a benchmark writes stands in assets/tables alone: link to it there."
        )
    return TABLES[name]()


def variants_table(family: str) -> str:
    """The registry's rows of one family, without the tiny ones, as Markdown."""
    rows = [v for v in VARIANTS.values() if v.family == family and not v.testing]
    lines = ["| variant | parameters | trained on | ImageNet-1k top-1 | checkpoint |", "|---|---:|---|---:|---|"]
    return "\n".join([*lines, *(_row(v) for v in rows)])


def _row(variant: Variant) -> str:
    trained_on = re.split(r"[,(]", variant.trained_on)[0].strip()  # how, and who says so, is in the model card
    top1 = f"{variant.top1:.2f} %" if variant.top1 is not None else "not confirmed"
    if variant.labels != "imagenet1k":
        top1 = f"none, {variant.architecture.classes:,} classes"
    url = variant.sources[0].url
    file = f"[`{url.rsplit('/', 1)[1]}`]({url})"
    return f"| `{variant.name}` | {variant.parameters:,} | {trained_on} | {top1} | {file} |"


def keep_batch(output_dir: Path, tables: Path) -> list[Path]:
    """Copies what a batch left in `output_dir`; returns the copies. FileNotFoundError where there was no batch."""
    return [Path(shutil.copyfile(output_dir / source, tables / name)) for name, source in BATCH_FILES.items()]


def releases_table(tables: Path) -> str:
    """Every artefact of the last batch that was kept, with the latencies that were measured; no smaller files."""
    index = _read(tables / "releases.json")
    if not index:
        return NOT_YET
    measured = latencies(tables)
    entries = [entry for entry in index["artefacts"] if not entry["derived_from"]]
    return table([entry | {"latency": entry.get("latency") or measured.get(entry["name"])} for entry in entries])


def batch_table(tables: Path) -> str:
    """Time, memory and disk of that batch."""
    report = _read(tables / "batch.json")
    return batch_report.table(report) if report else NOT_YET


def latencies(tables: Path) -> dict[str, dict[str, float]]:
    """By artefact, what `benchmarks.release_latency` measured, named as in the index."""
    measured = _read(tables / "release_latency.json") or {"samples": []}
    return {
        sample["name"]: {"milliseconds": 1000 * sample["seconds"], "times": sample["times"]}
        for sample in measured["samples"]
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def extract_pictures(notebook: Path) -> list[Path]:
    """Writes the pictures of an executed conversion notebook; returns their paths."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    written = []
    for mark, names in PICTURES.items():
        for cell in (cell for cell in cells if mark in "".join(cell["source"])):
            found = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
            for name, png in zip(names, filter(None, found), strict=True):
                path = ROOT / "assets" / "pictures" / f"{name}.png"
                path.write_bytes(base64.b64decode(png))
                written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the pages; take the pictures of the notebooks and the tables of the batches named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="an executed notebook, or a batch's folder")
    for run in parser.parse_args(arguments).runs:
        print(*(keep_batch(run, RUNS) if run.is_dir() else extract_pictures(run)), sep="\n")
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
