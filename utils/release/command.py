"""What a release needs beside the artefacts, as a command: `python -m utils.release FOLDER`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import ConversionError, PackagingError
from utils.families import FAMILIES
from utils.families.variants import HEADS, VARIANTS, Variant, artefact_name
from utils.release.folder import write_release
from utils.release.lists import merge_releases, table


def release_matrix() -> list[dict[str, Any]]:
    """A row for each variant that has official weights, as `include` of a GitHub Actions matrix: a job each.

    formats: what there is to be of it. files: what that job must leave, at least, of both heads and both kinds of
    operations.
    """
    return [
        {
            "variant": variant.name,
            "formats": ", ".join(("saved_model", *_beside(variant))),
            "files": [*_files_of(variant)],
        }
        for variant in VARIANTS.values()
        if not variant.testing
    ]


def _beside(variant: Variant) -> list[str]:
    return list(FAMILIES[variant.family].formats)


def _files_of(variant: Variant) -> Iterator[str]:
    for operations in FAMILIES[variant.family].operations:
        for head in HEADS:
            name = artefact_name(variant.name, head, "official", operations)
            yield from (f"{name}.tar.gz", f"{name}.json", f"{name}.md")
            if operations != "plain":  # of twins one has them
                yield from (f"{name}.{key}" for key in _beside(variant))


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
    folder, address = options.folder, options.address or ""
    try:
        if options.merge:
            entries = merge_releases(options.merge, folder, address)
        else:
            entries = write_release(folder, {}, strict=True, address=address)
        if not entries:
            raise PackagingError(f"{folder} has no artefact to release: expected tarballs, each with its manifest.")
    except ConversionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(entries))
    return 0
