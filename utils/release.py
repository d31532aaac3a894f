"""What a release needs beside the artefacts: model cards, sums, index and table. `python -m utils.release FOLDER`.

Everything is made from the manifests of artefacts that were checked against their files, so it may be written again at
any time, and the same artefacts always give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.artefacts import check_artefact
from utils.errors import ConversionError, PackagingError
from utils.hashes import hash_file
from utils.model_card import model_card
from utils.published import read_manifest
from utils.staging import replace_text

INDEX, SUMS, TABLE = "index.json", "SHA256SUMS", "TABLE.md"
HEADINGS = ("model", "weights", "parameters", "download", "output error", "gradients' error", "latency", "TensorFlow")
ALIGNMENT = ("---", "---", "---:", "---:", "---:", "---:", "---:", "---")

Manifest = Mapping[str, Any]


def write_release(output_dir: Path, checked: Mapping[str, Manifest], strict: bool = False) -> list[dict[str, Any]]:
    """Writes cards, index, sums and table of everything in `output_dir`; returns the index's entries.

    checked: manifests by name of artefacts that need not be checked again. The others' tarballs are. What does not
    match its manifest is left out, or with `strict` a PackagingError, and so is a smaller file of an artefact that was
    made anew since; what is not for a release (custom or fine-tuned weights) is left out. TFLite files, which have
    manifests of their own, are only summed up.
    """
    manifests = dict(checked)
    for path in sorted(output_dir.glob("*.json")):
        if path.stem not in manifests and path.name != INDEX and not path.name.endswith(".tflite.json"):
            try:
                manifests[path.stem] = check_artefact(output_dir, path.stem, unpacked=False)
            except PackagingError:
                if strict:
                    raise
    lite = {path: _manifest_beside(path) for path in output_dir.glob("*.tflite")}
    stale = _stale(manifests | {path.name: m for path, m in lite.items()})
    if stale and strict:
        raise PackagingError(
            f"{output_dir}: {', '.join(stale)} is smaller than an artefact that was converted again since. Make it "
            "again with `python -m utils.smaller`, or remove it."
        )
    manifests = {name: manifest for name, manifest in manifests.items() if name not in stale}
    released = [m for _, m in sorted(manifests.items()) if m["weights"] != "custom" and not m.get("training")]
    entries, sums = [], {}
    for manifest in released:
        name = manifest["name"]
        replace_text(output_dir / f"{name}.md", model_card(manifest))
        files = {f"{name}.tar.gz": manifest["tarball"]["sha256"]}
        files |= {file: hash_file(output_dir / file) for file in (f"{name}.json", f"{name}.md")}
        entries.append(entry(manifest, files))
        sums |= files
    for path in (path for path in lite if path.name not in stale):
        sums |= {file.name: hash_file(file) for file in (path, _beside(path)) if file.exists()}
    replace_text(output_dir / INDEX, json.dumps({"artefacts": entries}, indent=2) + "\n")
    sums[INDEX] = hash_file(output_dir / INDEX)
    replace_text(output_dir / SUMS, "".join(f"{value}  {file}\n" for file, value in sorted(sums.items())))
    replace_text(output_dir / TABLE, table(entries) + "\n")
    return entries


def _beside(lite: Path) -> Path:
    return lite.with_name(f"{lite.name}.json")


def _manifest_beside(lite: Path) -> Manifest:
    """Of a TFLite file; empty where there is none that can be read: then nothing is known of it."""
    try:
        return read_manifest(_beside(lite))
    except ConversionError:
        return {}


def _stale(manifests: Mapping[str, Manifest]) -> list[str]:
    """Names of what was derived from files that are no longer those of its origin, where that is there."""
    derived = {name: m["derived_from"] for name, m in manifests.items() if "derived_from" in m}
    return sorted(
        name
        for name, origin in derived.items()
        if origin["name"] in manifests and manifests[origin["name"]]["files"] != origin["files"]
    )


def entry(manifest: Manifest, files: Mapping[str, str]) -> dict[str, Any]:
    """What the index says of an artefact. files: SHA-256 by name."""
    rows = manifest["parity"]["rows"]
    output = next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    gradients = [row["relative_l2"] for row in rows if row["output"] == "gradients"]
    return {
        **{key: manifest[key] for key in ("name", "variant", "head", "weights", "parameters")},
        "family": manifest["model"]["family"],
        "operations": manifest.get("settings", {}).get("operations"),
        "source": manifest["source"],
        "bytes": manifest["tarball"]["bytes"],
        "output": output,
        "output_error": max((row["relative"] for row in rows if row["output"] == output), default=None),
        "gradients_error": max(gradients, default=None),
        "tolerance": manifest["parity"]["tolerance"],
        "minimum_tensorflow": manifest["versions"].get("minimum_tensorflow"),
        "licence": manifest["model"]["licence"],
        "files": dict(files),
    }


def table(entries: Sequence[Mapping[str, Any]], latencies: Mapping[str, float] | None = None) -> str:
    """The entries as a Markdown table, by family, variant and head. latencies: seconds by name, where measured."""
    order = sorted(entries, key=lambda e: (e["family"], e["variant"], e["operations"] or "", e["head"], e["name"]))
    rows = [HEADINGS, ALIGNMENT, *(_row(e, (latencies or {}).get(e["name"])) for e in order)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(entry: Mapping[str, Any], latency: float | None) -> tuple[str, ...]:
    least = entry["minimum_tensorflow"]
    return (
        f"`{entry['name']}`",
        entry["weights"],
        f"{entry['parameters']:,}",
        f"{entry['bytes'] / 1e6:,.1f} MB",
        _error(entry["output_error"]),
        _error(entry["gradients_error"]),
        "" if latency is None else f"{1000 * latency:.0f} ms",
        f"≥ {least}" if least else "",
    )


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is written, 1 if any manifest or tarball is not what it should be, or there is none."""
    parser = argparse.ArgumentParser(prog="python -m utils.release", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with tarballs and their manifests")
    folder = parser.parse_args(arguments).folder
    try:
        entries = write_release(folder, {}, strict=True)
        if not entries:
            raise PackagingError(f"{folder} has no artefact to release: expected tarballs, each with its manifest.")
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
