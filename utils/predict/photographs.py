"""Which photographs are meant, in order of their paths, and how each one's bytes are read.

Folders, files, text files with a path per line, zip files, and data sets of TensorFlow Datasets. From any position on,
so that a stopped run can go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from utils.errors import ParameterError
from utils.files import user_path
from utils.images.folders import read_images
from utils.images.photographs import SUFFIXES
from utils.images.source import MAX_BYTES
from utils.images.tfds import NAME, open_tfds, read_tfds
from utils.images.zipped import Unpacked, is_zip
from utils.text import printed

_SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class Photograph:
    """path: as given, or its name in a zip file or data set. read: gives the file's bytes, or raises OSError."""

    path: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Photographs:
    """`count` photographs, in order of path; `since(start, stop)` gives those of these positions.

    sha256: of their paths, sizes and dates. notice: what was not read, or nothing. unpacked: keep zip files' images.
    """

    count: int
    sha256: str
    since: Callable[[int, int], Iterator[Photograph]]
    notice: str = ""
    unpacked: tuple[Unpacked, ...] = ()


def open_photographs(images: Sequence[str], split: str | None = None, data_dir: str | None = None) -> Photographs:
    """What `images` name.

    Args:
        images: paths of folders, of files, of `.txt` files with a path per line, or of zip files, which may also be
            addresses; or one name of a data set in TensorFlow Datasets.
        split: of a data set; by default "test", else "validation", else "train".
        data_dir: where a data set's files are, by default `~/tensorflow_datasets`.

    Raises:
        ParameterError: something is not there, cannot be read, or there is no photograph at all.
    """
    name = images[0]
    if len(images) == 1 and NAME.fullmatch(name) and not user_path(name).exists():
        return _of_tfds(name, split, data_dir)
    if split or data_dir:
        raise ParameterError("--split and --data-dir are for a data set of TensorFlow Datasets. Leave them out.")
    files: dict[str, Path] = {}
    notices, unpacked = [], []
    for given in images:
        path = user_path(given)
        if is_zip(given):
            unpacked.append(archive := Unpacked(given))
            found, notice = read_images(archive.folder)
            files |= {f"{given}/{each.relative_to(archive.folder).as_posix()}": each for each in found}
            notices += [notice] if notice else []
        elif path.is_dir():
            found, notice = read_images(path)
            files |= {(Path(given) / each.relative_to(path)).as_posix(): each for each in found}
            notices += [notice] if notice else []
        elif not path.is_file():
            raise ParameterError(
                f"IMAGES {printed(given)}: there is no such file or folder. Give photographs, folders, zip files, .txt "
                "files with a path per line, or a data set of TensorFlow Datasets."
            )
        elif path.suffix.lower() == ".txt":
            files |= {line: user_path(line) for line in _lines(path)}
        else:
            files[given] = path
    if not files:
        raise ParameterError(
            f"IMAGES {printed(', '.join(images))}: there is no photograph ({', '.join(SUFFIXES)}). {' '.join(notices)}"
        )
    listed = sorted(files)
    listing = hashlib.sha256()
    for each in listed:
        listing.update(json.dumps([each, *_state(files[each])]).encode(errors="surrogatepass") + b"\n")
    return Photographs(
        count=len(listed),
        sha256=listing.hexdigest(),
        since=lambda start, stop: (Photograph(each, partial(_read, files[each])) for each in listed[start:stop]),
        notice="\n".join(notices),
        unpacked=tuple(unpacked),
    )


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"IMAGES {printed(str(path))} cannot be read as UTF-8 text: {error}.") from error


def _state(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []  # its row says why
    return [found.st_size, found.st_mtime_ns]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(0, f"it has more than {MAX_BYTES:,} bytes, which no photograph has")
    return data


def _of_tfds(name: str, split: str | None, data_dir: str | None) -> Photographs:
    try:
        builder = open_tfds(name, data_dir)
    except ParameterError as error:
        raise ParameterError(f"IMAGES {error}") from error
    splits = builder.info.splits
    split = split or next((each for each in _SPLITS if each in splits), None)
    if split not in splits:
        raise ParameterError(f"--split {split or 'is needed'}: {name} has the splits {', '.join(splits)}.")
    count = splits[split].num_examples

    def since(start: int, stop: int) -> Iterator[Photograph]:
        for path, file, _ in read_tfds(builder, f"{split}[{start}:{min(stop, count)}]") if start < count else ():
            yield Photograph(path, lambda file=file: file)

    listing = json.dumps([builder.info.full_name, split, list(splits[split].shard_lengths)])
    return Photographs(count, hashlib.sha256(listing.encode()).hexdigest(), since)
