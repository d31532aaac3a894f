"""Smaller files of published artefacts, float16 and TFLite: `python -m utils.smaller ARTEFACT ...`.

An ARTEFACT is a tarball or an unpacked SavedModel that `python -m utils.verify` finds right. The files come beside
it, or into --output-dir; each is compared with the source framework's golden outputs before it gets its name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from utils.artefact.contents import manifest_of
from utils.errors import ConversionError, PackagingError
from utils.machine.quiet import quiet_imports
from utils.verify import files

if TYPE_CHECKING:
    from utils.smaller.making import Artefact

KINDS = ("float16", "tflite-float32", "tflite-float16", "tflite-int8")


def make_smaller(path: Path, kinds: list[str], output_dir: Path | None = None) -> list[tuple[Path | None, str]]:
    """Makes the smaller files of one artefact: (its path, its figures), or (None, what went wrong) of each kind.

    kinds: of `KINDS`. TFLite files are for classifiers; of a feature extractor those are left out. Raises
    PackagingError where the artefact itself is not whole.
    """
    with quiet_imports():
        from utils.smaller import making

    made: list[tuple[Path | None, str]] = []
    with tempfile.TemporaryDirectory(prefix="smaller-") as scratch:
        artefact = open_artefact(path, Path(scratch))
        folder = output_dir or path.resolve().parent
        for kind in kinds:
            storage = kind.removeprefix("tflite-")
            if kind != storage and artefact.manifest["head"] != "classification":
                continue
            try:
                if kind == storage:
                    written = making.make_float16(artefact, folder)
                    manifest = written.with_name(written.name.replace(".tar.gz", ".json"))
                else:
                    written = making.make_lite(artefact, storage, folder)
                    manifest = written.with_name(f"{written.name}.json")
                made.append((written, _figures(written, manifest, artefact.output)))
            except ConversionError as error:
                made.append((None, f"{artefact.manifest['name']}, {kind}: {error}"))
    return made


def open_artefact(path: Path, scratch: Path) -> Artefact:
    """A tarball or folder as an artefact to work from. PackagingError unless its files are the manifest's."""
    from utils.smaller.making import Artefact
    from utils.verify.numbers import golden_of

    folder = files.unpack(path, scratch / "unpacked")
    manifest = manifest_of(folder)
    for check in (files.check_name(path, manifest), files.check_files(folder, manifest)):
        if check.passed is False:
            raise PackagingError(f"{path}: {check.text}. Make it again, or fetch it again.")
    if "storage" in manifest:
        raise PackagingError(f"{path} is a smaller file already. Give the artefact that it was made from.")
    return Artefact(folder, manifest, golden_of(folder))


def _figures(path: Path, manifest: Path, output: str) -> str:
    rows = [row for row in json.loads(manifest.read_text("utf-8"))["parity"]["rows"] if row["output"] == output]
    worst = max(rows, key=lambda row: row["relative_l2"])
    return f"{path.stat().st_size / 1e6:.1f} MB, relative error {worst['relative_l2']:.1e} <= {worst['tolerance']:.1e}"


def _each_alone(options: argparse.Namespace) -> int:
    """Each file by a process of its own: TensorFlow numbers functions by process, and files should not depend on it."""
    command, folder = [sys.executable, "-m", "utils.smaller"], options.output_dir
    where = ["--output-dir", str(folder)] if folder else []
    runs = [
        subprocess.run([*command, str(path), "--kinds", kind, *where], check=False)
        for path in options.artefacts
        for kind in options.kinds
    ]
    return int(any(run.returncode for run in runs))


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 every file was made, 1 at least one was not."""
    parser = argparse.ArgumentParser(prog="python -m utils.smaller", description=__doc__.splitlines()[0])
    parser.add_argument(
        "artefacts", nargs="+", metavar="ARTEFACT", type=Path, help="a .tar.gz or a SavedModel's folder"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="(all)")
    parser.add_argument("--output-dir", type=Path, help="where the files go (beside the artefact)")
    options = parser.parse_args(arguments)
    if len(options.artefacts) * len(options.kinds) > 1:
        return _each_alone(options)
    failed = False
    for path in options.artefacts:
        try:
            made = make_smaller(path, options.kinds, options.output_dir)
        except ConversionError as error:
            made = [(None, str(error))]
        for written, text in made:
            failed |= written is None
            print(f"{written}: {text}" if written else f"error: {text}", file=sys.stdout if written else sys.stderr)
    return int(failed)
