"""Which TensorFlow loads and runs our SavedModels: `python -m benchmarks.compat [artefact ...]`, or `make compat`.

An artefact is a SavedModel folder or a tarball; without any, the tiny variants are converted first. Each TensorFlow
gets an environment of its own under the cache folder, made once (about 1.5 GB each). What the TensorFlow of this
environment computes is the reference. Leaves `compat` in assets/tables, as .md (the table) and .json (all figures).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, compat_probe, environments
from benchmarks.compat_probe import PARTS
from utils.artefact.tarball import extract_tarball
from utils.conversion import convert
from utils.families.variants import HEADS
from utils.tables import markdown

# The last release of each minor version, oldest first. 2.13 is there to show the other side of the limit.
VERSIONS = ("2.13.1", "2.14.1", "2.15.1", "2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0", "2.21.0")
KINDS = (("mixer_tiny", "xla"), ("mixer_tiny", "plain"), ("convmixer_tiny", "xla"))
TOLERANCE = 1e-4  # of gradients; outputs are held to a tenth of it


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the table, print it. Exit status 1 when no version runs every artefact."""
    parser = command.parser("compat", __doc__)
    parser.add_argument("artefacts", nargs="*", type=Path, help="SavedModel folders or tarballs (tiny ones are made)")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help=f"of TensorFlow ({' '.join(VERSIONS)})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [_folder(path, Path(scratch)) for path in options.artefacts] or list(_tiny(scratch))
        references = {folder: reference(folder, Path(scratch, f"{folder.name}.npz")) for folder in folders}
        samples = []
        for version in options.versions:
            for folder, expected in references.items():
                found = probe(version, folder, Path(scratch, f"{folder.name}.npz"))
                samples.append({"version": version, "artefact": folder.name, **errors(found, expected)})
                print(f"TensorFlow {version}, {folder.name}: {verdict(samples[-1])}", flush=True)
    notes = command.notes("compat", arguments) | {
        "method": (
            "each TensorFlow in an environment of its own, on the CPU: load, call with batches of 4 and 1, "
            "gradients by every trainable variable, image signatures. The figure is the largest error of an output, "
            "relative to max(1, max), against the TensorFlow that wrote the artefact; then that of the gradients, "
            "relative L2"
        ),
    }
    command.leave(options, "compat", "TensorFlow versions that run the artefacts", notes, table, samples)
    failed = {sample["version"] for sample in samples if not verdict(sample).startswith("yes")}
    return int(failed >= set(options.versions))


def table(samples: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each TensorFlow, a column for each artefact."""
    names = list(dict.fromkeys(sample["artefact"] for sample in samples))
    rows = [[version, *map(verdict, group)] for (version,), group in command.grouped(samples, "version").items()]
    return markdown(["TensorFlow", *names], rows)


def verdict(sample: dict[str, Any]) -> str:
    """One cell: the errors when everything ran and agrees, else what went wrong first."""
    for part in ("install", "load", *PARTS):
        if isinstance(sample.get(part), str):
            return f"{part}: {sample[part]}"
    outputs = max(sample[part] for part in PARTS if part in sample and part != "gradients")
    agrees = outputs <= TOLERANCE / 10 and sample["gradients"] <= TOLERANCE
    return f"{'yes' if agrees else 'no'} ({outputs:.0e}, {sample['gradients']:.0e})"


def _tiny(scratch: str) -> Iterator[Path]:
    """The SavedModel folders of the tiny variants."""
    for variant, operations in KINDS:
        for head in HEADS:
            settings = {"head": head, "checkpoint": "synthetic", "operations": operations, "output_dir": scratch}
            yield convert(variant, **settings).folder


def _folder(path: Path, scratch: Path) -> Path:
    return path if path.is_dir() else extract_tarball(path, scratch / path.name.removesuffix(".tar.gz"))


def reference(folder: Path, inputs: Path) -> dict[str, np.ndarray]:
    """What this environment's TensorFlow computes; writes what it was given into the file `inputs`."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    _, height, width, _ = signature.structured_input_signature[1]["inputs"].shape
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.standard_normal((4, height or 64, width or 64, 3)).astype(np.float32)}
    arrays["images"] = rng.integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)
    np.savez(inputs, **arrays)
    return compat_probe.results(str(folder), arrays)


def probe(version: str, folder: Path, inputs: Path) -> dict[str, np.ndarray]:
    """What that TensorFlow computes, or why it cannot be installed or does not run."""
    name = f"tensorflow-{version}-py{sys.version_info[0]}{sys.version_info[1]}"
    written = inputs.with_suffix(".results.npz")
    failed = "install"
    try:
        python = environments.interpreter(name, [f"tensorflow-cpu=={version}"])
        failed = "load"
        environments.output(python, compat_probe.__file__, folder, inputs, written)
    except RuntimeError as error:
        return {failed: np.array(str(error))}
    with np.load(written, allow_pickle=False) as file:
        return dict(file)


def errors(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float | str]:
    """By part of what was found: how far off it is, or why it failed."""
    figures: dict[str, float | str] = {}
    for part, array in found.items():
        if array.dtype.kind == "U":
            figures[part] = str(array)
        elif array.shape != expected[part].shape:
            figures[part] = f"shape {array.shape}, expected {expected[part].shape}"
        elif part == "gradients":  # all together: some are zero but for rounding, and have no relative error
            figures[part] = float(np.linalg.norm(array - expected[part]) / np.linalg.norm(expected[part]))
        else:
            figures[part] = float(np.abs(array - expected[part]).max() / max(1.0, np.abs(expected[part]).max()))
    return figures


if __name__ == "__main__":
    sys.exit(main())
