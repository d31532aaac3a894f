"""The table of smaller files, from their manifests: `python -m benchmarks.smaller FOLDER ...`.

A FOLDER holds published artefacts with what `python -m utils.smaller` made of them. Leaves `smaller` in assets/tables,
as .md (the table) and .json (all figures). Nothing is computed here: the figures are those that each gate passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from utils.tables import markdown

OUTPUTS = ("logits", "features")


def samples(folder: Path) -> list[dict[str, Any]]:
    """One for each smaller file in `folder` and what it was made from: name, size, figures on the golden inputs."""
    found = []
    manifests = {path: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    origins = {manifest["derived_from"]["name"] for manifest in manifests.values() if "derived_from" in manifest}
    for path, manifest in manifests.items():
        origin = manifest.get("derived_from", {}).get("name", manifest.get("name"))
        if origin not in origins:
            continue
        file = path.with_name(path.name.removesuffix(".json") + ("" if ".tflite" in path.name else ".tar.gz"))
        rows = [row for row in manifest["parity"]["rows"] if row["input"] == "golden" and row["output"] in OUTPUTS]
        worst = max(rows, key=lambda row: row["relative_l2"])
        storage = f"{'TFLite' if 'format' in manifest else 'SavedModel'}, {manifest.get('storage', 'float32')}"
        figures = {"relative": worst["relative_l2"], "tolerance": worst["tolerance"], "top1": worst["top1"]}
        found.append({"artefact": origin, "file": storage, "bytes": file.stat().st_size, **figures})
    return sorted(found, key=lambda sample: (sample["artefact"], sample["file"]))


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each file."""
    headings = ["artefact", "file", "MB", "relative error", "tolerance", "top-1"]
    rows = [
        [
            f"`{sample['artefact']}`",
            sample["file"],
            f"{sample['bytes'] / 1e6:.1f}",
            f"{sample['relative']:.1e}",
            f"{sample['tolerance']:.1e}",
            "" if sample["top1"] is None else f"{sample['top1']:.0%}",
        ]
        for sample in found
    ]
    return markdown(headings, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the manifests, write the table, print it."""
    parser = command.parser("smaller", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="with published artefacts")
    options = parser.parse_args(arguments)
    found = [sample for folder in options.folders for sample in samples(folder)]
    described = command.notes("smaller", ["FOLDER"])
    notes = {key: value for key, value in described.items() if key in ("versions", "date", "command")} | {
        "weights": command.SYNTHETIC,
        "method": "relative error of the outputs on the golden inputs, to those of the source framework; top-1 where "
        "the source's margin exceeds the tolerance (empty where it never does); the tolerance is each file's own",
    }
    command.leave(options, "smaller", "Smaller files", notes, table, found)


if __name__ == "__main__":
    main()
