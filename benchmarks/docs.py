"""Puts the tables that runs have written into the pages of docs/: `python -m benchmarks.docs [RUN ...]`.

A table stands in a page between `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` has the names. "variants_FAMILY"
comes from the registry, "releases" and "batch" from a batch. What a benchmark writes, assets/tables/NAME.md, is a page
of its own: docs/ link to it, so that no table stands twice. A RUN is the output folder of a batch.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from utils.batch import report as batch_report
from utils.families.variants import VARIANTS, Variant
from utils.release.index import BATCH, INDEX
from utils.release.lists import table
from utils.tables import markdown

TABLES: dict[str, Callable[[], str]] = {
    "variants_convmixer": lambda: variants_table("convmixer"),
    "variants_mixer": lambda: variants_table("mixer"),
    "releases": lambda: releases_table(),
    "batch": lambda: batch_report.table(_read("batch")),
}
# name in assets/tables: where a batch leaves it in its output folder
BATCH_FILES = {"releases.json": Path(INDEX), "batch.json": Path(BATCH, batch_report.FILE)}
_BLOCK = re.compile(r"(<!-- table: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """`text` with each table's block filled. Raises KeyError for a name that is not in `TABLES`."""
    return _BLOCK.sub(lambda match: f"{match[1]}{TABLES[match['name']]()}\n{match[3]}", text)


def variants_table(family: str) -> str:
    """The registry's rows of one family, without the tiny ones, as Markdown."""
    rows = [_row(v) for v in VARIANTS.values() if v.family == family and not v.testing]
    return markdown(["variant", "parameters", "trained on", "ImageNet-1k top-1", "checkpoint"], rows, right=(1, 3))


def _row(variant: Variant) -> list[str]:
    trained_on = re.split(r"[,(]", variant.trained_on)[0].strip()  # how, and who says so, is in the model card
    top1 = f"{variant.top1:.2f} %" if variant.top1 is not None else "not confirmed"
    if variant.labels != "imagenet1k":
        top1 = f"none, {variant.architecture.classes:,} classes"
    url = variant.sources[0].url
    file = f"[`{url.rsplit('/', 1)[1]}`]({url})"
    return [f"`{variant.name}`", f"{variant.parameters:,}", trained_on, top1, file]


def releases_table() -> str:
    """Every artefact of the last batch that was kept, with the latencies that were measured; no smaller files."""
    measured = {
        sample["name"]: {"milliseconds": 1000 * sample["seconds"], "times": sample["times"]}
        for sample in _read("release_latency")["samples"]
    }
    entries = [entry for entry in _read("releases")["artefacts"] if not entry["derived_from"]]
    return table([entry | {"latency": entry.get("latency") or measured.get(entry["name"])} for entry in entries])


def _read(name: str) -> Any:
    return json.loads((command.TABLES / f"{name}.json").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the pages; take the tables of the batches named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.docs", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a batch's folder")
    for run in parser.parse_args(arguments).runs:
        for name, left in BATCH_FILES.items():
            shutil.copyfile(run / left, command.TABLES / name)
    for page in sorted((command.ROOT / "docs").glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
