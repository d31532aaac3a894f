"""Verifies downloaded models: `python -m utils.verify FILE ...`, or as one file, `python verify.pyz FILE ...`.

A FILE is a .tar.gz, .tflite, .keras or .onnx of this project, a SavedModel's folder, or a folder with such files, as a
release is. Needs TensorFlow and nothing else; for a .onnx, ONNX Runtime instead. Looks at the file's hash, what is in
it, each file against the manifest inside, the signatures; then computes the golden outputs that the file carries, and
compares. Nothing is run before every file is known to be the one that was published.
"""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from utils.artefact.contents import manifest_of
from utils.artefact.manifest import SCHEMA, check_manifest
from utils.errors import ConversionError
from utils.text import printed
from utils.verify import files, numbers
from utils.verify.files import Check

MACHINE = "machine"  # the check that fails where the system refuses something, or TensorFlow is missing
PATH = "path"  # the check that fails where there is nothing
ENDINGS = (".tar.gz", ".tgz", ".tflite", *numbers.NATIVE)
_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT)
_WORDS = {True: "ok", False: "FAIL", None: "-"}


def artefacts(path: Path) -> list[Path]:
    """The files to verify: those in the folder of a release, or else what was given."""
    there = sorted(path.glob("[!.]*"))
    files = [each for each in there if each.name.endswith(ENDINGS) and each.is_file()]
    return files if files and path / "saved_model.pb" not in there else [path]


def verify(path: Path) -> Iterator[Check]:
    """Everything that is looked at, in order; what is found wrong is a failed check, and nothing is run after that."""
    stage, seen = "contents", set()
    try:
        for check in _checks(path):
            yield check
            if check.passed is False and check.name != "numbers":  # the other ways to run it are worth knowing
                return
            seen.add(check.name)
            if seen >= {"contents", "files"}:
                stage = "numbers"
    except (ConversionError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        # Whether no file of whatever contents could bring this about: no space, no permission, no TensorFlow.
        machine = isinstance(cause, ImportError) or (isinstance(cause, OSError) and cause.errno in _REFUSALS)
        yield Check(MACHINE if machine else stage, False, str(error))
    except Exception as error:  # a fault of this program's own: the next file must still be looked at
        yield Check(stage, False, f"{type(error).__name__}: {error}")


def _checks(path: Path) -> Iterator[Check]:
    if not path.exists():
        known = "a .tar.gz, .tflite, .keras or .onnx file, a SavedModel's folder, or a folder with such files"
        yield Check(PATH, False, f"there is no such file or folder. Look at the path; give {known}")
        return
    if path.is_file():
        yield files.check_sum(path)
    if path.is_file() and path.suffix in numbers.NATIVE:
        yield from numbers.check_native(path)
        return
    with tempfile.TemporaryDirectory(prefix="verify-", ignore_cleanup_errors=True) as scratch:
        folder = files.unpack(path, Path(scratch) / "unpacked")
        manifest = manifest_of(folder)
        lite, unknown = manifest.get("format") == "tflite", check_manifest(manifest)
        newer = f", which has fields that this version does not know: {', '.join(unknown[:10])}" if unknown else ""
        if manifest["schema"] > SCHEMA:
            newer += f", by schema {manifest['schema']}, which is newer than this version's {SCHEMA}"
        yield Check("contents", True, f"a {'TFLite model' if lite else 'SavedModel'} with its manifest{newer}")
        yield files.check_name(path, manifest)
        yield files.check_beside(path, manifest)
        yield files.check_files(folder, manifest)
        yield from (numbers.check_lite if lite else numbers.check_saved_model)(folder, manifest)


def is_right(checks: list[Check]) -> bool:
    """Whether nothing was found wrong and the numbers were computed: what was not run to its end is not right."""
    return all(check.passed is not False for check in checks) and any(
        check.name == "numbers" and check.passed for check in checks
    )


def is_published(checks: list[Check]) -> bool:
    """Whether sums or a manifest beside it, published apart from it, say that these are the files."""
    beside = {"sum", "manifest"} if any(check.name == "manifest" for check in checks) else {"sum", "files"}
    return any(check.name in beside and check.passed for check in checks)


def verdict(checks: list[Check], ending: str = "") -> str:
    """What the checks come to, right, wrong or not checked, in a sentence. ending: of the file."""
    failed = {check.name for check in checks if check.passed is False}
    if is_right(checks):
        unknown = (
            " They are those that it carries itself. Nothing beside it says that it is what was published: where it "
            "comes from was not checked."
        )
        right = f"This copy gives the right numbers here: {numbers.this_machine(ending)}."
        return right if is_published(checks) else right + unknown
    if failed & {MACHINE, PATH} or not failed:
        return "NOT CHECKED, which says nothing about this copy: see above what could not be done here."
    runtime = "ONNX Runtime" if ending == ".onnx" else "TensorFlow"
    if not failed <= {"load", "numbers", "signatures"}:
        return "Do not use this copy: fetch it again, from where it was published."
    if is_published(checks):
        return (
            "These are the files that were published, but what they compute here was not found right. Try another "
            f"version of {runtime}; do not use this copy with this one."
        )
    return (
        "Do not use this copy: what it computes here was not found right, and nothing beside it says that it is what "
        f"was published. Fetch it again, with what lies beside it. Try another version of {runtime} after that."
    )


def _program() -> str:
    """What was called: the module, or one file."""
    return Path(sys.argv[0]).name.replace("__main__.py", "python -m utils.verify")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 every file is right, 1 one is wrong or could not be checked, 2 wrong usage, 130 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text, nor what is said of it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(prog=_program(), description=__doc__.splitlines()[0], epilog=main.__doc__)
    parser.add_argument(
        "files", nargs="+", metavar="FILE", type=Path, help="a .tar.gz, .tflite, .keras, .onnx, or a folder"
    )
    right = True
    try:
        for path in itertools.chain.from_iterable(map(artefacts, parser.parse_args(arguments).files)):
            print(printed(str(path)), flush=True)
            checks = []
            for check in verify(path):
                print(f"  {check.name:<10}  {_WORDS[check.passed]:<4}  {printed(check.text)}", flush=True)
                checks.append(check)
            right &= is_right(checks)
            print(f"  {verdict(checks, path.suffix)}\n", flush=True)
    except BrokenPipeError:  # nobody reads what is found, so nobody knows it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at the end
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: not everything was verified.", file=sys.stderr)
        return 130
    return int(not right)
