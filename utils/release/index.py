"""What a release's index says of each artefact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.artefact.card_head import licence
from utils.parity.report import Report

# What a release has beside its artefacts.
INDEX, SUMS, TABLE, VERIFIER = "index.json", "SHA256SUMS", "TABLE.md", "verify.pyz"

Manifest = Mapping[str, Any]
Entry = Mapping[str, Any]


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
        "licence": licence(manifest)[0],
        "files": dict(files),
    }
