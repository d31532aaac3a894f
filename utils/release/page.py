"""A release's models as a page of HTML: one file that needs no server, no framework and, to be read, no JavaScript.

Made from the index's entries alone, which a stranger may have written. Whatever they say is text to the page, addresses
become links only if they are https, and a policy lets nothing run or load but the script and the style beside this
module, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from string import Template

from utils.artefact.manifest import REPOSITORY
from utils.parity.judge import RATIO
from utils.release.index import VERIFIER, Entry
from utils.release.markup import address, element, html, link
from utils.release.page_model import COLUMNS, downloads, rows


def page(entries: Sequence[Entry], folder: str = "") -> str:
    """The whole page; the same entries give the same bytes.

    entries: the index's, in the order in which they are to stand; a smaller file stands with what it was derived from.
    folder: the https address below which the files can be fetched; without one they lie beside the page.
    """
    origins = {entry["name"]: entry["file"] for entry in entries if not entry.get("derived_from")}
    models: dict[str, list[Entry]] = defaultdict(list)  # by its file, first the model, then what is smaller
    for entry in sorted(entries, key=lambda entry: bool(entry.get("derived_from"))):
        models[origins.get(entry.get("derived_from"), entry["file"])].append(entry)
    files = {model: [file for entry in found for file in downloads(entry, folder)] for model, found in models.items()}
    every = [file for found in files.values() for file in found]
    style, script = _text("page.css"), _text("page.js")
    headings = [element("th", column.name, scope="col", **column.style) for column in COLUMNS]
    return Template(_text("page.html")).substitute(
        policy=f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        repository=REPOSITORY,
        ratio=f"{RATIO:g}",
        verifier=html(link(address(VERIFIER, folder), VERIFIER) if folder else element("code", VERIFIER)),
        count=f"{_count(len(models), 'model')} in {_count(len(every), 'file')}, "
        f"{sum(file.bytes for file in every) / 1e9:,.1f} GB",
        warning=_warning([model for model, *_ in models.values()]),
        headings=html(element("tr", *headings)),
        models="\n".join(html(rows(found[0], files[model])) for model, found in models.items()),
    )


def _warning(models: Sequence[Entry]) -> str:
    synthetic = sum(entry["weights"] == "synthetic" for entry in models)
    if not synthetic:
        return ""
    which = f"{'All' if synthetic == len(models) else f'{synthetic} of the'} {_count(len(models), 'model')}"
    said = (
        f"{which} on this page hold random numbers in the place of weights. They recognise nothing, their outputs mean "
        "nothing, and they are for tests only."
    )
    return html(element("p", element("strong", "SYNTHETIC WEIGHTS"), said, class_="warning", role="note"))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """How a content security policy names an inline script or style: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
