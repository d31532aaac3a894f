"""A folder of artefacts as a release: each checked against its manifest, its card written, and all of them listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from utils.artefact.card import model_card
from utils.artefact.contents import check_artefact, check_lite
from utils.artefact.placing import replace_text
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.files import hash_file
from utils.release.index import INDEX, LATENCY, TABLE, IndexEntry, Manifest, entry, read_latencies
from utils.release.lists import write_lists

# What the workflow takes from a folder to publish it, beside sums and page: patterns of names.
PUBLISHED = ("*.tar.gz", "*.tflite", *(f"*.{key}" for key in BESIDE), "*.json", "*.md")


def check_folder(
    output_dir: Path, checked: Mapping[str, Manifest] = MappingProxyType({}), strict: bool = True
) -> dict[str, Manifest]:
    """Manifests of all that is in `output_dir`, by name, and of .tflite files by the file's.

    checked: manifests by name, of artefacts that need not be checked again. The others' tarballs, .keras, .onnx and
    .tflite files are. What does not match its manifest is a PackagingError, and so is a smaller file of an artefact
    that was made anew since, and a variant of more than one checkpoint. Without `strict`, the first two are left out.
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


def write_release(
    output_dir: Path, checked: Mapping[str, Manifest], strict: bool = False, address: str = ""
) -> list[IndexEntry]:
    """Writes the cards and lists of everything in `output_dir` that is for a release: no custom or fine-tuned weights.

    The index has the latencies that were measured of these very tarballs.

    Args:
        output_dir: with the artefacts.
        checked: as of `check_folder`.
        strict: as of `check_folder`; and nothing may lie there that would be published without a sum.
        address: as of `write_lists`.

    Returns:
        The index's entries.

    Raises:
        PackagingError: as `check_folder`; for a damaged file of latencies; and with `strict`, if there is nothing.
    """
    latencies, entries = read_latencies(output_dir / LATENCY), []
    for name, manifest in check_folder(output_dir, checked, strict).items():
        if manifest["weights"] == "custom" or manifest.get("training"):
            continue
        if name.endswith(".tflite"):  # its manifest is all that lies beside it
            file, hashes, rest = name, {}, [name, f"{name}.json"]
        else:
            replace_text(output_dir / f"{name}.md", model_card(manifest))
            parts = {"tar.gz": manifest["tarball"]} | {key: manifest[key] for key in BESIDE if key in manifest}
            hashes = {f"{name}.{ending}": part["sha256"] for ending, part in parts.items()}
            file, rest = f"{name}.tar.gz", [f"{name}.json", f"{name}.md"]
        hashes |= {each: hash_file(output_dir / each) for each in rest}
        size = (output_dir / file).stat().st_size
        entries.append(entry(manifest, file, size, hashes, latencies.get(hashes[file])))
    if strict and not entries:
        raise PackagingError(
            f"{output_dir} has no artefact to release: expected tarballs of official or synthetic weights, each with "
            "its manifest. A model of your own is published by `python -m utils.publish`."
        )
    if strict:
        _require_sums(output_dir, {file for entry in entries for file in entry["files"]})
    write_lists(output_dir, entries, address)
    return entries


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


def _require_sums(output_dir: Path, listed: Collection[str]) -> None:
    """PackagingError where a file would be published that is not among those that have a sum."""
    there = {path.name for pattern in PUBLISHED for path in output_dir.glob(pattern)}
    hidden = {name for name in there if name.startswith(".")}  # which nobody publishes
    if strays := sorted(there - hidden - {INDEX, TABLE, *listed}):
        raise PackagingError(
            f"{output_dir}: {', '.join(strays)} would be published without a sum, as no artefact of this release tells "
            "of such a file. Remove it, or move it to another folder, and likewise custom and fine-tuned models."
        )
