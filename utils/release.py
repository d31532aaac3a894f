"""What a release needs beside the artefacts: model cards, sums, index and table. `python -m utils.release FOLDER`.

Everything is made from the manifests of artefacts that were checked against their files, so it may be written again at
any time, and the same artefacts always give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from utils.artefact.card import model_card
from utils.artefact.contents import check_artefact, check_lite, read_json
from utils.artefact.placing import replace_text
from utils.errors import ConversionError, PackagingError
from utils.files import hash_file
from utils.models.variants import HEADS, OPERATIONS, VARIANTS, Variant, artefact_name
from utils.parity.report import Report
from utils.tables import markdown

INDEX, SUMS, TABLE, VERIFIER = "index.json", "SHA256SUMS", "TABLE.md", "verify.pyz"

Manifest = Mapping[str, Any]


def check_folder(
    output_dir: Path, checked: Mapping[str, Manifest] = MappingProxyType({}), strict: bool = True
) -> dict[str, Manifest]:
    """Manifests of all that is in `output_dir`, by name, and of .tflite files by the file's.

    checked: manifests by name, of artefacts that need not be checked again. The others' tarballs, .keras and .tflite
    files are. What does not match its manifest is a PackagingError, and so is a smaller file of an artefact that was
    made anew since, and a variant of more than one checkpoint. Without `strict`, the first two are left out.
    """
    manifests = dict(checked)
    for path in sorted([*output_dir.glob("*.tar.gz"), *output_dir.glob("*.tflite")]):
        name = path.name.removesuffix(".tar.gz")  # a .tflite file keeps its ending: there is a tarball of its name
        try:
            if path.suffix == ".tflite":
                manifests[name] = check_lite(path)
            elif name not in manifests:
                manifests[name] = check_artefact(output_dir, name, unpacked=False)
        except PackagingError:
            if strict:
                raise
    stale = _stale(manifests)
    if stale and strict:
        raise PackagingError(
            f"{output_dir}: {', '.join(stale)} is smaller than an artefact that was converted again since. Make it "
            "again with `python -m utils.smaller`, or remove it."
        )
    if strict:
        _require_one_checkpoint(manifests)
    return {name: manifest for name, manifest in sorted(manifests.items()) if name not in stale}


def write_release(output_dir: Path, checked: Mapping[str, Manifest], strict: bool = False) -> list[dict[str, Any]]:
    """Writes cards, index, sums and table of everything in `output_dir`; returns the index's entries.

    checked, strict: as in `check_folder`. What is not for a release (custom or fine-tuned weights) is left out.
    """
    entries = []
    for name, manifest in check_folder(output_dir, checked, strict).items():
        if manifest["weights"] == "custom" or manifest.get("training"):
            continue
        if name.endswith(".tflite"):  # its manifest is all that lies beside it
            file, files, known = name, [name, f"{name}.json"], {}
        else:
            replace_text(output_dir / f"{name}.md", model_card(manifest))
            file, files = f"{name}.tar.gz", [f"{name}.tar.gz", f"{name}.json", f"{name}.md"]
            known = {file: manifest["tarball"]["sha256"]}
            if "keras" in manifest:
                known[f"{name}.keras"] = manifest["keras"]["sha256"]
                files.append(f"{name}.keras")
        hashes = {each: known.get(each) or hash_file(output_dir / each) for each in files}
        entries.append(entry(manifest, file, (output_dir / file).stat().st_size, hashes))
    _write_lists(output_dir, entries)
    return entries


def merge_releases(parts: Sequence[Path], output_dir: Path) -> list[dict[str, Any]]:
    """Writes index, sums and table of releases in parts, whose files need not be there; returns the index's entries.

    parts: folders with an index each. PackagingError where one has none, or two have an artefact of one name.
    """
    entries = [entry for part in parts for entry in read_json(part / INDEX).get("artefacts", ())]
    counts = Counter(entry["file"] for entry in entries)
    if not entries or (twice := [file for file, count in counts.items() if count > 1]):
        reason = f"{', '.join(twice)} stands in more than one" if entries else "there is no artefact in them"
        raise PackagingError(f"{', '.join(map(str, parts))} cannot be merged: {reason}.")
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_lists(output_dir, sorted(entries, key=lambda entry: entry["file"]))
    return entries


def _write_lists(output_dir: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    replace_text(output_dir / INDEX, json.dumps({"artefacts": list(entries)}, indent=2) + "\n")
    replace_text(output_dir / TABLE, table(entries) + "\n")
    there = [name for name in (INDEX, TABLE, VERIFIER) if (output_dir / name).is_file()]
    sums = {file: value for entry in entries for file, value in entry["files"].items()}
    sums |= {name: hash_file(output_dir / name) for name in there}
    replace_text(output_dir / SUMS, "".join(f"{value}  {file}\n" for file, value in sorted(sums.items())))


def _stale(manifests: Mapping[str, Manifest]) -> list[str]:
    """Names of what was derived from files that are no longer those of its origin, where that is there."""
    derived = {name: manifest["derived_from"] for name, manifest in manifests.items() if "derived_from" in manifest}
    return sorted(
        name for name, origin in derived.items() if manifests.get(origin["name"], origin)["files"] != origin["files"]
    )


def _require_one_checkpoint(manifests: Mapping[str, Manifest]) -> None:
    """PackagingError where the heads, twins or smaller files of one variant were made from files that differ."""
    by_variant: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, manifest in sorted(manifests.items()):
        if manifest["weights"] != "custom":
            by_variant[manifest["variant"], manifest["weights"]][manifest["source"]["sha256"]].append(name)
    for (variant, weights), checkpoints in by_variant.items():
        if len(checkpoints) > 1:
            found = "; ".join(f"SHA-256 {value}: {', '.join(names)}" for value, names in checkpoints.items())
            raise PackagingError(
                f"{variant}: its {weights} artefacts were made from {len(checkpoints)} different checkpoint files "
                f"({found}). Convert them again from one file."
            )


def entry(manifest: Manifest, file: str, size: int, files: Mapping[str, str]) -> dict[str, Any]:
    """What the index says of an artefact. file: what to download, of `size` bytes. files: SHA-256 by name."""
    rows = Report.from_json(manifest["parity"]).rows
    output = next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    ratios = manifest["parity"].get("ratio", {})  # errors in units of the source's own, where they were measured so
    return {
        **{key: manifest[key] for key in ("name", "variant", "head", "weights", "parameters")},
        "family": manifest["model"]["family"],
        "operations": manifest.get("settings", {}).get("operations"),
        "source": manifest["source"],
        "derived_from": manifest.get("derived_from", {}).get("name"),
        "file": file,
        "bytes": size,
        "keras_bytes": manifest.get("keras", {}).get("bytes"),
        "output": output,
        "output_error": max((row.figure for row in rows if row.output == output), default=None),
        "gradients_error": max((row.figure for row in rows if row.output == "gradients"), default=None),
        "times": {key: value for key, value in ratios.items() if key in (output, "gradients")},
        "sentence": manifest["parity"].get("sentence", ""),
        "tolerance": manifest["parity"]["tolerance"],
        "minimum_tensorflow": manifest["versions"].get("minimum_tensorflow"),
        "licence": manifest["model"]["licence"],
        "files": dict(files),
    }


def table(entries: Sequence[Mapping[str, Any]], latencies: Mapping[str, float] | None = None) -> str:
    """The entries as a Markdown table, by family, variant and head.

    latencies: seconds by name, where measured; without any, there is no such column. Nor is there one of the `.keras`
    files' sizes without any such file.
    """
    order = sorted(entries, key=lambda e: (e["family"], e["variant"], e["operations"] or "", e["head"], e["file"]))
    measured = latencies or {}
    latency = {"latency": lambda e: f"{1000 * measured[e['name']]:.0f} ms" if e["name"] in measured else ""}
    keras = {".keras": lambda e: f"{e['keras_bytes'] / 1e6:,.1f} MB" if e.get("keras_bytes") else ""}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "model": lambda e: f"`{e['file'].removesuffix('.tar.gz')}`",
        "weights": lambda e: e["weights"],
        "parameters": lambda e: f"{e['parameters']:,}",
        "download": lambda e: f"{e['bytes'] / 1e6:,.1f} MB",
        **(keras if any(e.get("keras_bytes") for e in entries) else {}),
        "output error": lambda e: _error(e["output_error"], e.get("times", {}).get(e.get("output"))),
        "gradients' error": lambda e: _error(e["gradients_error"], e.get("times", {}).get("gradients")),
        **(latency if measured else {}),
        "TensorFlow": lambda e: f"≥ {e['minimum_tensorflow']}" if e["minimum_tensorflow"] else "",
    }
    rows = [[cell(entry) for cell in columns.values()] for entry in order]
    return markdown(list(columns), rows, right=range(2, len(columns) - 1))


def _error(value: float | None, times: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1e}" if times is None else f"{value:.1e}, {times:.1f} times"


def release_matrix() -> list[dict[str, Any]]:
    """A row for each variant that has official weights, as `include` of a GitHub Actions matrix: a job each.

    files: what that job must leave, at least, of both heads and both kinds of operations.
    """
    return [
        {"variant": variant.name, "files": list(_files_of(variant))}
        for variant in VARIANTS.values()
        if not variant.testing
    ]


def _files_of(variant: Variant) -> Iterator[str]:
    for operations in OPERATIONS if variant.family == "mixer" else OPERATIONS[:1]:
        for head in HEADS:
            name = artefact_name(variant.name, head, "official", operations)
            yield from (f"{name}.tar.gz", f"{name}.json", f"{name}.md")
            if operations != "plain":  # of twins one has it
                yield f"{name}.keras"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is written, 1 if any file is not what it should be, or there is none."""
    parser = argparse.ArgumentParser(prog="python -m utils.release", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", help="with tarballs and their manifests")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="PART", help="write the lists of releases in parts, from their indices"
    )
    what.add_argument("--matrix", action="store_true", help="print what a release consists of, for the workflow")
    options = parser.parse_args(arguments)
    if options.matrix:
        print(json.dumps({"include": release_matrix()}))
        return 0
    folder = options.folder
    try:
        entries = merge_releases(options.merge, folder) if options.merge else write_release(folder, {}, strict=True)
        if not entries:
            raise PackagingError(f"{folder} has no artefact to release: expected tarballs, each with its manifest.")
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
