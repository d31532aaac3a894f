"""A release's models as a page of HTML: one file that needs no server, no framework and, to be read, no JavaScript.

Made from the index's entries alone, which a stranger may have written. Whatever they say is text to the page, addresses
become links only if they are https, and a policy lets nothing run or load but the script and the style beside this
module, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

from utils.artefact.card import SYNTHETIC
from utils.artefact.manifest import REPOSITORY
from utils.families import FAMILIES
from utils.families.variants import BESIDE
from utils.parity.judge import RATIO
from utils.release.index import VERIFIER, IndexEntry, megabytes, times

_HEADS = {"classification": "classifier", "fe": "feature extractor"}
_FORMS = {"gz": "SavedModel", "tflite": "TFLite"} | BESIDE  # by ending
_BESIDE = {"json": "manifest", "md": "model card"}
_NUMBERS = ("Top-1", "Parameters", "Download", "Output error", "Gradients’ error", "Latency")  # columns sorted as such
_COLUMNS = ("Model", "Weights", *_NUMBERS, "TensorFlow", "Licence")
_POLICY = "default-src 'none'; style-src $style; script-src $script; base-uri 'none'; form-action 'none'"


class Html(str):
    """Text that is HTML already. Every other text is escaped on its way into it."""


def _fill(template: str, **values: object) -> Html:
    """The template with its values: what is no `Html` becomes text in it, also within an attribute's quotes."""
    texts = {key: value if isinstance(value, Html) else html.escape(str(value)) for key, value in values.items()}
    return Html(Template(template).substitute(texts))


def _join(parts: Iterable[Html], between: str = "") -> Html:
    return Html(between.join(parts))


def page(entries: Sequence[IndexEntry], folder: str = "") -> str:
    """The whole page; the same entries give the same bytes.

    entries: the index's, in the order in which they are to stand; a smaller file stands with what it was derived from.
    folder: the https address below which the files can be fetched; without one they lie beside the page.
    """
    origins = {entry["name"]: entry["file"] for entry in entries if not entry.get("derived_from")}
    models: dict[str, list[IndexEntry]] = defaultdict(list)  # by its file, first the model, then what is smaller
    for entry in sorted(entries, key=lambda entry: bool(entry.get("derived_from"))):
        models[origins.get(entry.get("derived_from"), entry["file"])].append(entry)
    files = {model: [file for entry in found for file in _downloads(entry, folder)] for model, found in models.items()}
    every = [file for found in files.values() for file in found]
    style, script = _text("page.css"), _text("page.js")
    size = sum(file.bytes for file in every)
    return _fill(
        _text("page.html"),
        policy=_fill(_POLICY, style=_source(style), script=_source(script)),
        style=style,
        script=script,
        repository=REPOSITORY,
        ratio=f"{RATIO:g}",
        verifier=_link(_address(VERIFIER, folder), VERIFIER) if folder else _fill("<code>$file</code>", file=VERIFIER),
        count=f"Models: {len(models)}, files: {len(every)}, {_gigabytes(size)}",
        warning=_warning([model for model, *_ in models.values()]),
        headings=_join(
            _fill('<th scope="col"$number>$name</th>', name=name, number=_number(name)) for name in _COLUMNS
        ),
        models=_join((_model(found[0], files[model]) for model, found in models.items()), "\n"),
    )


def _gigabytes(size: int) -> str:
    return megabytes(size) if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _text(name: str) -> Html:
    return Html(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def _source(text: str) -> Html:
    """How a content security policy names an inline script or style: by its SHA-256."""
    return Html(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")


def _warning(models: Sequence[IndexEntry]) -> Html:
    synthetic = sum(entry["weights"] == "synthetic" for entry in models)
    if not synthetic:
        return Html()
    return _fill(
        '<p class="warning" role="note"><strong>SYNTHETIC WEIGHTS</strong> $which models on this page hold random '
        "numbers in the place of weights. They recognise nothing, their outputs mean nothing, and they are for tests "
        "only.</p>",
        which="All" if synthetic == len(models) else f"{synthetic} of the {len(models)}",
    )


def _address(file: str, folder: str) -> str:
    """Where a file is: below an https folder, or beside the page. Never with another scheme, whatever the names are."""
    return f"{folder if folder.startswith('https://') else '.'}/{quote(file, safe='')}"


def _link(to: str, shown: str) -> Html:
    """What leads to an address as `_address` gives it, or to another of https; to anything else, it leads nowhere."""
    template = '<a href="$to">$shown</a>' if to.startswith(("https://", "./")) else "<span>$shown</span>"
    return _fill(template, to=to, shown=shown)


# --- the files


class Download(NamedTuple):
    """A file to fetch. of: the entry that lists it. folder: where it is published, https, or "" for beside the page."""

    file: str
    bytes: int
    of: IndexEntry
    folder: str

    @property
    def kind(self) -> str:
        """What it is, in words, by its name."""
        form = _FORMS.get(_ending(self.file), f".{_ending(self.file)}")
        storage = re.search(r"_(float32|float16|int8)\.", self.file)
        return f"{form}, {storage[1]}" if storage else form

    @property
    def commands(self) -> str:
        """Lines for a shell: fetch it, compare its sum, see what it computes here."""
        sha256 = self.of["files"][self.file]
        fetch = [f"curl -fLO {shlex.quote(_address(self.file, self.folder))}"] if self.folder else []
        compare = f"echo {shlex.quote(f'{sha256}  {self.file}')} | sha256sum -c"
        verify = VERIFIER if self.folder else "-m utils.verify"
        return "\n".join([*fetch, compare, f"python {verify} {shlex.quote(self.file)}"])


def _downloads(entry: IndexEntry, folder: str) -> Iterator[Download]:
    """The entry's own file, and the same model in other formats, such as `.keras`."""
    yield Download(entry["file"], entry["bytes"], entry, folder)
    for file in entry["files"]:
        if file != entry["file"] and _ending(file) not in _BESIDE:
            yield Download(file, entry.get(f"{_ending(file)}_bytes") or 0, entry, folder)


def _ending(file: str) -> str:
    return file.rpartition(".")[2]


# --- a model


def _model(entry: IndexEntry, files: Sequence[Download]) -> Html:
    """A table's body of two rows: figures, and files. files: the entry's own first, then those derived from it."""
    cells = []
    for name, (shown, value) in zip(_COLUMNS, _figures(entry), strict=True):
        tag = "td" if cells else 'th scope="row"'
        template = f'<{tag}$number data-label="$name" data-value="$value">$shown</{tag[:2]}>'
        value = "" if value is None else value
        cells.append(_fill(template, number=_number(name), name=name, value=value, shown=shown))
    links = []
    for each in files:
        shown = _fill("$kind <small>$size</small>", kind=each.kind, size=megabytes(each.bytes))
        links.append(_fill("<li>$link</li>", link=_link(_address(each.file, each.folder), shown)))
    return _fill(
        '<tbody><tr>$cells</tr><tr><td class="more" colspan="$columns"><ul class="files">$links</ul>'
        "<details><summary>Sums and commands</summary>$details</details></td></tr></tbody>",
        cells=_join(cells),
        columns=len(_COLUMNS),
        links=_join(links),
        details=_join(_details(entry, files)),
    )


def _number(column: str) -> Html:
    return Html(' class="number"' if column in _NUMBERS else "")


def _figures(entry: IndexEntry) -> Iterator[tuple[str, Any]]:
    """What stands in the cell of each column, and what it is sorted by: None or "" for last."""
    family = FAMILIES[entry["family"]].title if entry["family"] in FAMILIES else entry["family"]
    plain = ", ordinary operations" if entry.get("operations") == "plain" else ""
    pixels = {None: "", 0: ", any size"}.get(size := entry.get("image_size"), f", {size} px")
    about = f"{family}, {_HEADS.get(entry['head'], entry['head'])}{plain}{pixels}"
    words = _join((_fill("$word", word=word) for word in re.split(r"(?<=_)", entry["name"])), "<wbr>")
    yield _fill("<code>$words</code><small>$about</small>", words=words, about=about), entry["name"]
    official = entry["weights"] == "official"
    loud = "weights" if official else "weights loud"
    weights = entry["weights"] if official else entry["weights"].upper()
    yield _fill('<span class="$loud">$weights</span>', loud=loud, weights=weights), entry["weights"]
    top1 = entry.get("top1")
    yield "—" if top1 is None else f"{top1:.2f} %", top1
    yield f"{entry['parameters']:,}", entry["parameters"]
    yield megabytes(entry["bytes"]), entry["bytes"]
    for figure, output in (("output_error", entry.get("output")), ("gradients_error", "gradients")):
        multiple, error = times(entry, output), entry.get(figure)
        shown = "" if multiple is None else f"{multiple:.1f}×"
        yield (
            shown if error is None else _fill("$shown<small>$error</small>", shown=shown, error=f"{error:.1e}"),
            multiple,
        )
    if latency := entry.get("latency"):
        large, small = f"{latency['times']:.2f}×", f"{latency['milliseconds']:,.0f} ms"
        yield _fill("$large<small>$small</small>", large=large, small=small), latency["times"]
    else:
        yield "—", None
    least = entry.get("minimum_tensorflow")
    yield f"≥ {least}" if least else "", least
    yield entry.get("licence") or "", entry.get("licence")


def _details(entry: IndexEntry, files: Sequence[Download]) -> Iterator[Html]:
    if entry["weights"] == "synthetic":
        yield _fill("<p><strong>SYNTHETIC WEIGHTS</strong>: $what.</p>", what=SYNTHETIC)
    if entry.get("sentence"):
        yield _fill("<p>$sentence</p>", sentence=entry["sentence"])
    if latency := entry.get("latency"):
        yield _fill(
            "<p>Latency: $here ms for one image, and $there ms in $framework, in turns with $threads threads on "
            "$machine.</p>",
            framework=latency["framework"],
            threads=latency["threads"],
            machine=latency["machine"],
            here=f"{latency['milliseconds']:,.0f}",
            there=f"{latency['source_milliseconds']:,.0f}",
        )
    source = entry.get("source") or {}
    # A path tells about the machine that it is on; the file's name is enough.
    if checkpoint := source.get("url") or PurePath(source.get("path") or "").name:
        link, sha256 = _link(checkpoint, checkpoint), source.get("sha256") or ""
        yield _fill("<p>Checkpoint: $link, SHA-256 <code>$sha256</code></p>", link=link, sha256=sha256)
    for each in files:
        yield _fill("<p><strong>$kind</strong>$more</p>", kind=each.kind, more=_join(_more(each, entry)))
        yield _fill('<pre class="command"><code>$commands</code></pre>', commands=each.commands)


def _more(download: Download, model: IndexEntry) -> Iterator[Html]:
    """What there is to say of a file beside its kind: the error of a smaller one, and what lies beside it."""
    error = download.of.get("output_error")
    if download.of is not model and error is not None:
        yield _fill(", relative error $error", error=f"{error:.1e}")
    if download.file == download.of["file"]:
        for file in download.of["files"]:
            if title := _BESIDE.get(_ending(file)):
                yield _fill(", $link", link=_link(_address(file, download.folder), title))
