"""A model on the page: its figures by column, its files, and the commands to fetch and to verify each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from utils.artefact.card import SYNTHETIC
from utils.families import FAMILIES
from utils.families.variants import BESIDE
from utils.release.index import VERIFIER, Entry, times
from utils.release.markup import Content, Element, address, element, link

_HEADS = {"classification": "classifier", "fe": "feature extractor"}
_FORMS = {"gz": "SavedModel", "tflite": "TFLite"} | BESIDE  # by ending
_BESIDE = {"json": "manifest", "md": "model card"}


@dataclass(frozen=True)
class Download:
    """A file to fetch. of: the entry that lists it. folder: where it is published, https, or "" for beside the page."""

    file: str
    bytes: int
    of: Entry
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
        fetch = [f"curl -fLO {shlex.quote(address(self.file, self.folder))}"] if self.folder else []
        compare = f"echo {shlex.quote(f'{sha256}  {self.file}')} | sha256sum -c"
        verify = VERIFIER if self.folder else "-m utils.verify"
        return "\n".join([*fetch, compare, f"python {verify} {shlex.quote(self.file)}"])


def downloads(entry: Entry, folder: str) -> Iterator[Download]:
    """The entry's own file, and the same model in other formats, such as `.keras`."""
    yield Download(entry["file"], entry["bytes"], entry, folder)
    for file in entry["files"]:
        if file != entry["file"] and _ending(file) not in _BESIDE:
            yield Download(file, entry.get(f"{_ending(file)}_bytes") or 0, entry, folder)


def _ending(file: str) -> str:
    return file.rpartition(".")[2]


# --- figures


@dataclass(frozen=True)
class Column:
    """show: what stands in a cell. value: what it is sorted by, None or "" for last. number: as one, not as a name."""

    name: str
    show: Callable[[Entry], Sequence[Content]]
    value: Callable[[Entry], Any]
    number: bool = False

    @property
    def style(self) -> dict[str, str]:
        """Attributes of heading and cells."""
        return {"class_": "number"} if self.number else {}


def _name(entry: Entry) -> Sequence[Content]:
    family, head = entry["family"], _HEADS.get(entry["head"], entry["head"])
    family = FAMILIES[family].title if family in FAMILIES else family
    plain = ", ordinary operations" if entry.get("operations") == "plain" else ""
    parts = [part for word in re.split(r"(?<=_)", entry["name"]) for part in (word, element("wbr"))]
    return element("code", *parts[:-1]), element("small", f"{family}, {head}{plain}")


def _weights(entry: Entry) -> Sequence[Content]:
    if entry["weights"] == "official":
        return (element("span", "official", class_="weights"),)
    return (element("span", entry["weights"].upper(), class_="weights loud"),)


def _error(name: str, figure: str, output: Callable[[Entry], str | None]) -> Column:
    def show(entry: Entry) -> Sequence[Content]:
        multiple = times(entry, output(entry))
        shown = [] if multiple is None else [f"{multiple:.1f}×"]
        return shown if entry.get(figure) is None else [*shown, element("small", f"{entry[figure]:.1e}")]

    return Column(name, show, lambda entry: times(entry, output(entry)), number=True)


def megabytes(size: int) -> str:
    """A count of bytes, as the release's table has it."""
    return f"{size / 1e6:,.1f} MB"


def _latency(entry: Entry) -> Sequence[Content]:
    latency = entry.get("latency")
    return [f"{latency['times']:.2f}×", element("small", _time(latency["milliseconds"]))] if latency else ["—"]


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.0f} ms"


COLUMNS = (
    Column("Model", _name, lambda e: e["name"]),
    Column("Weights", _weights, lambda e: e["weights"]),
    Column("Parameters", lambda e: [f"{e['parameters']:,}"], lambda e: e["parameters"], number=True),
    Column("Download", lambda e: [megabytes(e["bytes"])], lambda e: e["bytes"], number=True),
    _error("Output error", "output_error", lambda e: e.get("output")),
    _error("Gradients’ error", "gradients_error", lambda e: "gradients"),
    Column("Latency", _latency, lambda e: (e.get("latency") or {}).get("times"), number=True),
    Column(
        "TensorFlow",
        lambda e: [f"≥ {e['minimum_tensorflow']}"] if e.get("minimum_tensorflow") else [],
        lambda e: e.get("minimum_tensorflow"),
    ),
    Column("Licence", lambda e: [e.get("licence") or ""], lambda e: e.get("licence")),
)


# --- the model


def rows(entry: Entry, files: Sequence[Download]) -> Element:
    """A table's body of two rows: figures, and files. files: the entry's own first, then those derived from it."""
    cells = []
    for column in COLUMNS:
        head, value = {} if cells else {"scope": "row"}, column.value(entry)
        data = {"data_value": "" if value is None else str(value), "data_label": column.name}
        cells.append(element("th" if head else "td", *column.show(entry), **head, **column.style, **data))
    links = [
        element("li", link(address(each.file, each.folder), f"{each.kind} ", element("small", megabytes(each.bytes))))
        for each in files
    ]
    details = element("details", element("summary", "Sums and commands"), *_details(entry, files))
    more = element("td", element("ul", *links, class_="files"), details, colspan=str(len(COLUMNS)), class_="more")
    return element("tbody", element("tr", *cells), element("tr", more))


def _details(entry: Entry, files: Sequence[Download]) -> Iterator[Element]:
    if entry["weights"] == "synthetic":
        yield element("p", element("strong", "SYNTHETIC WEIGHTS"), f": {SYNTHETIC}.")
    if entry.get("sentence"):
        yield element("p", entry["sentence"])
    if latency := entry.get("latency"):
        here, there = _time(latency["milliseconds"]), _time(latency["source_milliseconds"])
        where = f"in turns with {latency['threads']} threads on {latency['machine']}"
        yield element("p", f"Latency: {here} for one image, and {there} in {latency['framework']}, {where}.")
    source = entry.get("source") or {}
    # A path tells about the machine that it is on; the file's name is enough.
    if checkpoint := source.get("url") or PurePath(source.get("path") or "").name:
        sha256 = element("code", source.get("sha256") or "")
        yield element("p", "Checkpoint: ", link(checkpoint, checkpoint), ", SHA-256 ", sha256)
    for each in files:
        yield element("p", element("strong", each.kind), *_told(each, entry))
        yield element("pre", element("code", each.commands), class_="command")


def _told(download: Download, model: Entry) -> Iterator[Content]:
    """What there is to say of a file beside its kind: the error of a smaller one, and what lies beside it."""
    if download.of is not model and download.of.get("output_error") is not None:
        yield f", relative error {download.of['output_error']:.1e}"
    if download.file == download.of["file"]:
        for file in download.of["files"]:
            if title := _BESIDE.get(_ending(file)):
                yield ", "
                yield link(address(file, download.folder), title)
