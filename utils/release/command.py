"""What a release needs beside the artefacts, as a command: `python -m utils.release FOLDER`."""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

from utils.command import run_command
from utils.families import FAMILIES
from utils.families.variants import HEADS, VARIANTS, artefact_name
from utils.release.folder import write_release
from utils.release.lists import merge_releases, table


def release_matrix() -> list[dict[str, Any]]:
    """A row for each variant that has official weights, as `include` of a GitHub Actions matrix: a job each.

    formats: what there is to be of it. files: what that job must leave, at least, of both heads and both kinds of
    operations.
    """
    rows = []
    for variant in (variant for variant in VARIANTS.values() if not variant.testing):
        family, files = FAMILIES[variant.family], []
        for operations, head in itertools.product(family.operations, HEADS):
            beside = () if operations == "plain" else family.formats  # of twins one has them
            name = artefact_name(variant.name, head, "official", operations)
            files += [f"{name}.{ending}" for ending in ("tar.gz", "json", "md", *beside)]
        rows.append({"variant": variant.name, "formats": ", ".join(("saved_model", *family.formats)), "files": files})
    return rows


def _https(text: str) -> str:
    """For argparse: the address of a folder on the web, without a slash at its end."""
    if not re.fullmatch(r"https://[\w.-]+(/[\w.~-]+)*/?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the https address of a folder")
    return text.rstrip("/")


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 all is written, 1 if any file is not what it should be, or there is none."""
    parser = argparse.ArgumentParser(prog="python -m utils.release", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", type=Path, nargs="?", help="with tarballs and their manifests")
    parser.add_argument(
        "--merge", nargs="+", type=Path, metavar="PART", help="write the lists of releases in parts, from their indices"
    )
    parser.add_argument(
        "--address", type=_https, metavar="URL", help="where all of it is to be published, for the page"
    )
    what.add_argument("--matrix", action="store_true", help="print what a release consists of, for the workflow")
    options = parser.parse_args(arguments)
    if options.matrix:
        print(json.dumps({"include": release_matrix()}))
        return 0
    return run_command(lambda: _release(options.folder, options.merge, options.address or ""), "Interrupted.")


def _release(folder: Path, parts: list[Path] | None, address: str) -> str:
    """Writes everything; returns the table."""
    entries = (
        merge_releases(parts, folder, address) if parts else write_release(folder, {}, strict=True, address=address)
    )
    page = "" if parts else f" Look at {folder / 'models.html'}; python -m utils.verify checks a file's numbers."
    return f"{table(entries)}\n\nEvery file is the one that its manifest lists.{page}"
