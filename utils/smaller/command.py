"""TFLite files of published classifiers: `python -m utils.smaller ARTEFACT ...`.

An ARTEFACT is a tarball or an unpacked SavedModel that `python -m utils.verify` finds right. The files come beside
it, or into --output-dir; each is compared with the source framework's golden outputs before it gets its name.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

from utils.artefact.opening import open_model
from utils.errors import ConversionError, PackagingError
from utils.machine.quiet import quiet_imports
from utils.verify.files import check_name

KINDS = ("tflite-float32", "tflite-float16", "tflite-int8")


def make_smaller(path: Path, kind: str, output_dir: Path | None = None, overwrite: bool = False) -> Path | None:
    """Makes one TFLite file of an artefact; returns its path, or None for a feature extractor.

    Args:
        path: The artefact's.
        kind: One of `KINDS`.
        output_dir: Where the files go; by default beside the artefact.
        overwrite: As of `make_lite`.

    Raises:
        PackagingError: The artefact is not whole, or the file cannot be made.
    """
    with quiet_imports():
        from utils.smaller import making

    artefact = open_model(str(path))
    if (name := check_name(path, artefact.manifest)).passed is False:
        raise PackagingError(f"{path}: {name.text}. Make it again, or fetch it again.")
    if artefact.output != "logits":
        return None
    try:
        folder = output_dir or path.resolve().parent
        return making.make_lite(artefact, kind.removeprefix("tflite-"), folder, overwrite)
    except ConversionError as error:
        raise PackagingError(f"{artefact.name}, {kind}: {error}") from error


def _figures(path: Path) -> str:
    manifest = json.loads(path.with_name(f"{path.name}.json").read_text("utf-8"))
    (output,) = manifest["signatures"]["serving_default"]["outputs"]
    rows = [row for row in manifest["parity"]["rows"] if row["output"] == output]
    worst = max(rows, key=lambda row: row["relative_l2"])
    return f"{path.stat().st_size / 1e6:.1f} MB, relative error {worst['relative_l2']:.1e} <= {worst['tolerance']:.1e}"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 every file was made, 1 at least one was not."""
    parser = argparse.ArgumentParser(prog="python -m utils.smaller", description=__doc__.splitlines()[0])
    parser.add_argument(
        "artefacts", nargs="+", metavar="ARTEFACT", type=Path, help="a .tar.gz or a SavedModel's folder"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="(all)")
    parser.add_argument("--output-dir", type=Path, help="where the files go (beside the artefact)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that was made from something else")
    options = parser.parse_args(arguments)
    if len(options.artefacts) * len(options.kinds) > 1:
        # Each by a process of its own: TensorFlow numbers functions by process, and files should not depend on it.
        where = ["--output-dir", str(options.output_dir)] if options.output_dir else []
        where += ["--overwrite"] if options.overwrite else []
        command, alone = [sys.executable, "-m", "utils.smaller"], itertools.product(options.artefacts, options.kinds)
        runs = [subprocess.run([*command, path, "--kinds", kind, *where], check=False) for path, kind in alone]
        return int(any(run.returncode for run in runs))
    try:
        made = make_smaller(options.artefacts[0], options.kinds[0], options.output_dir, options.overwrite)
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{made}: {_figures(made)}" if made else f"{options.artefacts[0]}: feature extractors get no TFLite file")
    return 0
