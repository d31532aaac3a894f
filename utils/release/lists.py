"""The lists of a release: index, table, page and sums, made from its entries. They say no more than the index says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from utils.artefact.placing import replace_text
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.files import hash_file
from utils.release.index import INDEX, PAGE, SUMS, TABLE, VERIFIER, IndexEntry, megabytes, read_index, times
from utils.release.page import page
from utils.tables import markdown


def write_lists(output_dir: Path, entries: Sequence[IndexEntry], address: str = "") -> None:
    """Writes them all; the sums are of what the entries list, the lists themselves and the verifier, if it is there.

    address: of the folder in which all this is published, https, where it is known.
    """
    index = {"address": address} if address else {}
    replace_text(output_dir / INDEX, json.dumps(index | {"artefacts": list(entries)}, indent=2) + "\n")
    replace_text(output_dir / TABLE, table(entries) + "\n")
    replace_text(output_dir / PAGE, page(in_order(entries), address))
    there = [name for name in (INDEX, TABLE, PAGE, VERIFIER) if (output_dir / name).is_file()]
    sums = {file: value for entry in entries for file, value in entry["files"].items()}
    sums |= {name: hash_file(output_dir / name) for name in there}
    replace_text(output_dir / SUMS, "".join(f"{value}  {file}\n" for file, value in sorted(sums.items())))


def merge_releases(parts: Sequence[Path], output_dir: Path, address: str = "") -> list[IndexEntry]:
    """Writes the lists of releases in parts, whose files need not be there; returns the index's entries.

    parts: folders with an index each. address: as for `write_lists`. PackagingError where a part has no sound index, or
    two have an artefact of one name.
    """
    entries = [entry for part in parts for entry in read_index(part / INDEX)]
    counts = Counter([*(INDEX, TABLE, PAGE, SUMS, VERIFIER), *(file for entry in entries for file in entry["files"])])
    if not entries or (twice := [file for file, count in counts.items() if count > 1]):
        reason = f"{', '.join(twice)} stands in more than one, or is a list's" if entries else "there is no artefact"
        raise PackagingError(f"{', '.join(map(str, parts))} cannot be merged: {reason}.")
    output_dir.mkdir(parents=True, exist_ok=True)
    write_lists(output_dir, sorted(entries, key=lambda entry: entry["file"]), address)
    return entries


def in_order(entries: Sequence[IndexEntry]) -> list[IndexEntry]:
    """By family, variant, operations and head."""
    return sorted(entries, key=lambda e: (e["family"], e["variant"], e.get("operations") or "", e["head"], e["file"]))


def table(entries: Sequence[IndexEntry]) -> str:
    """The entries as a Markdown table, in order.

    Without any latency there is no such column. Nor is there one of the sizes of `.keras` or `.onnx` files without any
    such file.
    """
    latency = {"latency": _latency} if any(e.get("latency") for e in entries) else {}
    sizes = {f"{key}_bytes": f".{key}" for key in BESIDE if any(e.get(f"{key}_bytes") for e in entries)}
    columns: dict[str, Callable[[IndexEntry], str]] = {
        "model": lambda e: f"`{e['file'].removesuffix('.tar.gz')}`",
        "weights": lambda e: e["weights"],
        "parameters": lambda e: f"{e['parameters']:,}",
        "download": lambda e: megabytes(e["bytes"]),
        **{title: partial(_size, field) for field, title in sizes.items()},
        "output error": lambda e: _error(e.get("output_error"), times(e, e.get("output"))),
        "gradients' error": lambda e: _error(e.get("gradients_error"), times(e, "gradients")),
        **latency,
        "TensorFlow": lambda e: f"≥ {e['minimum_tensorflow']}" if e.get("minimum_tensorflow") else "",
    }
    rows = [[cell(entry) for cell in columns.values()] for entry in in_order(entries)]
    return markdown(list(columns), rows, right=range(2, len(columns) - 1))


def _size(field: str, entry: IndexEntry) -> str:
    return megabytes(entry[field]) if entry.get(field) else ""


def _latency(entry: IndexEntry) -> str:
    latency = entry.get("latency")
    return f"{latency['milliseconds']:,.0f} ms, {latency['times']:.2f} times" if latency else ""


def _error(value: float | None, multiple: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if multiple is None else f"{value:.1e}, {multiple:.1f} times"
