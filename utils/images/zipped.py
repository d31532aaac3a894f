"""A zip file of labelled photographs, from a path or a URL, unpacked into a folder for `folders.read_folder`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from utils.archives import MAX_RATIO, SMALL, ArchiveError, Refusal, open_zip, read_member
from utils.errors import ParameterError
from utils.images.folders import is_litter
from utils.images.photographs import SUFFIXES
from utils.images.source import MAX_BYTES, download
from utils.text import printed

_MAX_MEMBERS = 200_000  # whose names and places alone take 100 MB of memory


def is_zip(dataset: str) -> bool:
    """Whether a notebook's `dataset`, a path or an address, is called as a zip file is."""
    return _address(dataset).lower().endswith(".zip")


class Unpacked:
    """Where the images of a zip file lie, until this object is forgotten.

    Attributes:
        folder: Holds the folders of the classes, or of the parts; a folder that wraps them all is left out.
        name: The zip file's, without its ending.
    """

    def __init__(self, dataset: str) -> None:
        """ParameterError for a file that cannot be fetched, is no zip file of images, or would not fit on the disk."""
        self._kept = tempfile.TemporaryDirectory(prefix="images-")
        place = Path(self._kept.name)
        self.name, self.folder = PurePosixPath(_address(dataset)).stem, place / "images"
        file = Path(dataset).expanduser()
        if "://" in dataset:
            file = place / "images.zip"
            with file.open("wb") as written:
                download(dataset, written, _free(place), f"dataset = {printed(dataset)}")
        _unpack(file, self.folder, f"dataset = {printed(dataset)}")
        while len(inner := _folders(self.folder)) == 1 and _folders(*inner):
            (self.folder,) = inner


def _address(dataset: str) -> str:
    return dataset.split("?")[0] if "://" in dataset else dataset


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not is_litter(path)]


def _unpack(file: Path, folder: Path, where: str) -> None:
    expected = "Expected a zip file with a folder of images for each class. Pack it anew, or give the folder."
    with open_zip(file, refusal := Refusal(where, ParameterError, expected), most=_MAX_MEMBERS) as archive:
        folder.mkdir()
        files = [member for member in archive.infolist() if not member.is_dir()]
        members = {_inside(member.filename): member for member in files}
        if len(members) < len(files):
            raise ArchiveError("some paths in it are the same on this system")
        # Other files are left out; their names are kept, as empty files, since `read_folder` counts what it leaves out.
        images = {path for path in members if path.suffix.lower() in SUFFIXES}
        needed = sum(members[path].file_size for path in images)
        allowed = min(_free(folder), max(SMALL, MAX_RATIO * file.stat().st_size))
        if needed > allowed:
            raise ArchiveError(f"it unpacks to {needed:,} bytes, more than the {allowed:,} that are allowed")
        for path, member in members.items():
            refusal.member = member.filename
            if path in images and member.file_size > MAX_BYTES:
                raise ArchiveError(
                    f"it has {member.file_size:,} bytes, more than {MAX_BYTES:,}, which no photograph has"
                )
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with (folder / path).open("xb") as written:
                written.write(read_member(archive, member.filename) if path in images else b"")
            os.utime(folder / path, ns=(0, member.CRC))  # unpacked again, they are the same files
        refusal.member = None


def _inside(name: str) -> PurePosixPath:
    """The member's path. ArchiveError for one that leads outside; backslashes are what old Windows tools write."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"the path {name!r} leads outside the folder")
    return path


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
