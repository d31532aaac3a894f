"""Which TensorFlow loads and runs our SavedModels: `python -m benchmarks.compat [artefact ...]`, or `make compat`.

An artefact is a SavedModel folder or a tarball; without any, the tiny variants are converted first. Each TensorFlow
gets an environment of its own under the cache folder, made once (about 1.5 GB each). What the TensorFlow of this
environment computes is the reference. Leaves `compat` in assets/tables, as .md (the table) and .json (all figures).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command, compat_probe, environments
from utils.artefact.tarball import extract_tarball
from utils.families.variants import HEADS
from utils.tables import markdown

# The last release of each minor version, oldest first. 2.13 is there to show the other side of the limit.
VERSIONS = ("2.13.1", "2.14.1", "2.15.1", "2.16.2", "2.17.1", "2.18.1", "2.19.1", "2.20.0", "2.21.0")
KINDS = (("mixer_tiny", {"operations": "xla"}), ("mixer_tiny", {"operations": "plain"}), ("convmixer_tiny", {}))
TOLERANCE = 1e-4  # of gradients; outputs are held to a tenth of it
PARTS = ("output", "one image", "gradients", "serving_image", "serving_image_bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write the table, print it. Exit status 1 when no version runs every artefact."""
    parser = command.parser("compat", __doc__)
    parser.add_argument("artefacts", nargs="*", type=Path, help="SavedModel folders or tarballs (tiny ones are made)")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help=f"of TensorFlow ({' '.join(VERSIONS)})")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        artefacts = [_folder(path, Path(scratch)) for path in options.artefacts] or list(_tiny(Path(scratch)))
        references = [_reference(folder, Path(scratch)) for folder in artefacts]
        samples = []
        for version in options.versions:
            for folder, reference in zip(artefacts, references, strict=True):
                samples.append({"version": version, "artefact": folder.name, **_probe(version, folder, reference)})
                print(f"TensorFlow {version}, {folder.name}: {verdict(samples[-1])}", flush=True)
    notes = command.notes("compat", arguments) | {
        "method": (
            "each TensorFlow in an environment of its own, on the CPU: load, call with batches of 3 and 1, "
            "gradients by every trainable variable, image signatures. The figure is the largest error of an output, "
            "relative to max(1, max), against the TensorFlow that wrote the artefact; then that of the gradients, "
            "relative L2"
        ),
    }
    command.leave(options, "compat", "TensorFlow versions that run the artefacts", notes, table, samples)
    return 0 if any(not failures(samples, version) for version in options.versions) else 1


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


def failures(samples: Sequence[dict[str, Any]], version: str) -> list[str]:
    """Artefacts that `version` does not run."""
    return [s["artefact"] for s in samples if s["version"] == version and not verdict(s).startswith("yes")]


def _tiny(scratch: Path) -> Iterator[Path]:
    """The SavedModel folders of the tiny variants, from the tarballs that the notebooks write."""
    from utils.convert import run_notebook
    from utils.settings import Settings

    for variant, operations in KINDS:
        for head in HEADS:
            settings = Settings(variant, head, "synthetic", output_dir=str(scratch / "exports"), **operations)
            yield _folder(run_notebook(settings)[1], scratch)


def _folder(path: Path, scratch: Path) -> Path:
    if path.is_dir():
        return path
    folder = scratch / "extracted" / path.name.removesuffix(".tar.gz")
    folder.parent.mkdir(exist_ok=True)
    extract_tarball(path, folder)
    return folder


def _reference(folder: Path, scratch: Path) -> Path:
    """What this environment's TensorFlow computes, as an .npz for the probe."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    _, height, width, _ = model.signatures["serving_default"].structured_input_signature[1]["inputs"].shape
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((4, height or 64, width or 64, 3)).astype(np.float32)
    arrays = {"inputs": inputs, "images": rng.integers(0, 256, (2, 70, 90, 3), dtype=np.uint8)}
    arrays["output"] = compat_probe.output(model, inputs)
    arrays |= {f"gradient:{name}": array for name, array in compat_probe.gradients(model, inputs).items()}
    for name in set(model.signatures) & set(PARTS):
        arrays[name] = compat_probe.signature(model, name, arrays)
    path = scratch / f"{folder.name}.npz"
    np.savez(path, **arrays)
    return path


def _probe(version: str, folder: Path, reference: Path) -> dict[str, Any]:
    python_version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = f"tensorflow-{version}-py{python_version.replace('.', '')}"
    try:
        python = environments.interpreter(name, [f"tensorflow-cpu=={version}"])
    except RuntimeError as error:
        return {"install": f"no wheel for Python {python_version}: {error}"}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ""}
    done = subprocess.run(
        [str(python), str(Path(compat_probe.__file__)), str(folder), str(reference)],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"load": (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1][:200]}
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
