"""Folders of labelled photographs: a sub-folder per class, or such folders within `train`, `val` and `test`.

Links are followed, and no folder is read twice. Whatever is left out is counted.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from utils.errors import ParameterError
from utils.images.photographs import SUFFIXES
from utils.text import printed

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_PARTS = {"train": TRAIN, "training": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION}
_PARTS |= {"test": TEST, "testing": TEST}
# What a Mac's zip files, network storage and Windows leave: copies, thumbnails of photographs among them.
_LITTER = ("__macosx", "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "lost+found")
_LITTER += ("system volume information",)
_NAMED = 8  # kinds of files that a notice names

ByClass = Mapping[str, list[Path]]


@dataclass(frozen=True)
class Labelled:
    """The image files of a folder, sorted, by class, by part: TRAIN, VALIDATION, TEST, or "" if it is not split.

    left_out: how many files and folders were not read, by kind.
    """

    parts: Mapping[str, ByClass]
    left_out: Counter[str]

    @property
    def notice(self) -> str:
        """What was not read, in a line, or ""."""
        kinds = [f"{count:,} {printed(kind)}" for kind, count in self.left_out.most_common()]
        listed = ", ".join(kinds[:_NAMED]) + (", …" if len(kinds) > _NAMED else "")
        return f"{self.left_out.total():,} files or folders were not read: {listed}" if kinds else ""


def read_folder(folder: Path) -> Labelled:
    """Finds the images. ParameterError for what is neither classes nor a split, and for a class's unusable name."""
    reader = _Reader()
    try:
        return Labelled(reader.parts(folder), reader.left_out)
    except OSError as error:
        raise _unreadable(error) from error


def read_images(folder: Path) -> tuple[list[Path], str]:
    """The image files below a folder, without classes; and what was not read, in a line, or ""."""
    reader = _Reader()
    try:
        files = [path for path in reader.files(folder) if reader.is_image(path)]
        return files, Labelled({}, reader.left_out).notice
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> ParameterError:
    return ParameterError(
        f"{printed(str(error.filename))} cannot be read ({error.strerror}). Change its permissions, or remove it."
    )


def is_litter(folder: Path) -> bool:
    """Whether it is hidden, or one that a system leaves: no class."""
    return folder.name.startswith(".") or folder.name.casefold() in _LITTER


class _Reader:
    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._seen: set[Path] = set()

    def parts(self, folder: Path) -> dict[str, ByClass]:
        """As `Labelled.parts`."""
        self._seen.add(folder.resolve())
        folders = self._folders(folder)
        split = [path for path in folders if _part(path)]
        others = [path for path in folders if not _part(path)]
        nested = bool(split) and all(any(map(Path.is_dir, _entries(path))) for path in split)
        if nested and (not others or (TRAIN in map(_part, split) and len(split) > 1)):
            self.left_out.update(f"{path.name} beside {TRAIN}" for path in others)
            return self._split(folder, split)
        if len(split) > 1 and not others:
            raise ParameterError(
                f"{_shown(folder)}: {_names(split)} hold no folders of classes. Expected a folder per class in each."
            )
        return {"": self._classes(folders)}

    def _split(self, folder: Path, split: list[Path]) -> dict[str, ByClass]:
        if len(set(map(_part, split))) < len(split):
            raise ParameterError(
                f"{_shown(folder)}: of {_names(split)} some are one part twice. Join them, or move one away."
            )
        self._seen.update(path.resolve() for path in split)
        return {_part(path): self._classes(self._folders(path)) for path in split}

    def _folders(self, folder: Path) -> list[Path]:
        """Those of parts or classes; files beside them belong to no class, and are counted."""
        entries = _entries(folder)
        for path in entries:
            if not path.is_dir() and self.is_image(path):
                self.left_out[f"{path.suffix.lower()} in no folder of a class"] += 1
        return [path for path in entries if path.is_dir() and not self._is_litter(path)]

    def _classes(self, folders: list[Path]) -> ByClass:
        found: dict[str, list[Path]] = {}
        for folder in folders:
            name = _class_name(folder)
            if name in found:
                raise ParameterError(f"{_shown(folder.parent)}: two folders are called {name!r}. Join or rename them.")
            found[name] = [path for path in self.files(folder) if self.is_image(path)]
            if len(split := [path for path in _entries(folder) if _part(path) and path.is_dir()]) > 1:
                raise ParameterError(
                    f"{_shown(folder)} holds {_names(split)}. Put these outside, and the folders of classes into them."
                )
        return found

    def files(self, folder: Path) -> Iterator[Path]:
        """All below it, in order. What was read already is left out: linked images would count twice, or for ever."""
        if (place := folder.resolve()) in self._seen:
            self.left_out["folders that were read already"] += 1
            return
        self._seen.add(place)
        for path in _entries(folder):
            if not path.is_dir():
                yield path
            elif not self._is_litter(path):
                yield from self.files(path)

    def _is_litter(self, path: Path) -> bool:
        if litter := is_litter(path):
            self.left_out[path.name] += 1
        return litter

    def is_image(self, path: Path) -> bool:
        """Whether it is one to read; what is not is counted."""
        ending = path.suffix.lower()
        if path.name.startswith("."):
            kind = "hidden"
        elif not path.is_file():
            kind = "broken links or devices"
        elif ending not in SUFFIXES:
            kind = ending or "without an ending"
        else:
            return True
        self.left_out[kind] += 1
        return False


def _part(path: Path) -> str:
    return _PARTS.get(path.name.casefold(), "")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _class_name(folder: Path) -> str:
    """As labels have it: on one line, and in one of the forms that Unicode has for the same letters."""
    name = unicodedata.normalize("NFC", " ".join(folder.name.split()))
    seen = any(unicodedata.category(letter)[0] not in "CZ" for letter in name)
    if not seen or name != printed(name):
        raise ParameterError(
            f"{_shown(folder)}: a class is called as its folder is, and this name is blank, no UTF-8, or has control "
            "characters. Rename the folder."
        )
    return name


def _shown(path: Path) -> str:
    return f"'{printed(str(path))}'"


def _names(folders: list[Path]) -> str:
    return ", ".join(path.name for path in folders)
