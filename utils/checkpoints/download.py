"""A checkpoint's file: what is known of it; official ones are fetched once, and checked by SHA-256 on every later use.

Upstream publishes no hashes, so the first download is trusted (if it is whole and of the right kind) and
remembered in a small JSON file beside it. A file gets its final name only when it is complete: it grows as
`<name>.<pid>.part`, is checked, then renamed.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from utils.checkpoints.contents import open_contents, why_not_checkpoint
from utils.checkpoints.http import UNKNOWN_HOST, FileAbsent, NoAnswer, hub_file, transfer
from utils.errors import CheckpointError, CheckpointUnavailable, ParameterError
from utils.families import FAMILIES
from utils.families.variants import Source, Variant
from utils.files import hash_file, write_text

CACHE_VARIABLE = "MIXERS_CACHE"
STALE_PART_SECONDS = 24 * 3600  # a living download writes far more often than that


@dataclass(frozen=True)
class Checkpoint:
    """A local file; `weights` is "official", "synthetic" or "custom", and `url` is known if official.

    reason: why it is synthetic where nobody asked for that.
    """

    path: Path
    weights: str
    url: str | None
    sha256: str
    reason: str = ""

    @property
    def notice(self) -> str:
        """Warning to show with the model if its weights are synthetic, else an empty string."""
        if self.weights != "synthetic":
            return ""
        why = f". The official checkpoint is not used: {self.reason}" if self.reason else ""
        return f"SYNTHETIC WEIGHTS: random numbers, which recognise nothing{why}"

    @property
    def record(self) -> dict[str, str | None]:
        """What the manifest says of the file: its address, its name (where it lay is nobody's business), its hash."""
        return {"url": self.url, "path": self.path.name, "sha256": self.sha256}

    @property
    def facts(self) -> dict[str, str]:
        """The same for people."""
        size = f"{self.path.stat().st_size / 1e6:.2f} MB"
        origin = self.url or "this machine"
        return {"weights": self.weights, "file": self.path.name, "from": origin, "size": size, "SHA-256": self.sha256}


def cache_folder() -> Path:
    """Folder of downloads and synthetic files: $MIXERS_CACHE, else the system's own."""
    import pooch

    folder = Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("mixers-to-tensorflow")).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"The cache folder {folder} cannot be made: {error}. Set {CACHE_VARIABLE} to a folder you can write to."
        ) from error
    return folder


def cached(variant: Variant, source: Source) -> Path:
    """The place that a source's file has in the cache."""
    suffix = Path(source.file).suffix or FAMILIES[variant.family].suffix
    return cache_folder() / f"{variant.name}.{source.layout}{suffix}"


def fetch(variant: Variant) -> Checkpoint:
    """Gives the official checkpoint of a variant, downloading it at the first use.

    The sources are asked in their order, the next one when a file is absent or its host cannot be reached; a host that
    failed is not asked again. Raises ParameterError for a variant without official file, CheckpointUnavailable when no
    source can be reached, CheckpointError for a cached file that changed or an answer that is no checkpoint.
    """
    if not variant.sources:
        raise ParameterError(
            f"variant = {variant.name!r} has no official checkpoint. "
            'Set checkpoint to "synthetic" or to the path of a local file.'
        )
    targets = {source: cached(variant, source) for source in variant.sources}
    for source, target in targets.items():
        if target.exists() and (found := _checked(target, source)):
            return found
    reasons, silent, unknown = [], set(), []
    for source, target in targets.items():
        host = urlsplit(source.url).netloc
        if host in silent:
            continue
        try:
            return _download(source, target)
        except NoAnswer as error:
            if not isinstance(error, FileAbsent):
                silent.add(host)
            if str(error) == UNKNOWN_HOST:  # with no network, of each host
                unknown.append(host)
            else:
                reasons.append(f"{source.url}: {' '.join(str(error).split())}")
    if unknown:
        reasons.append(f"{' and '.join(unknown)} could not be reached ({UNKNOWN_HOST})")
    raise CheckpointUnavailable(
        f"The official checkpoint of {variant.name} could not be fetched. {'; '.join(reasons)}. Check the network "
        "connection, or download the file elsewhere and set checkpoint to its path, "
        'or set checkpoint to "synthetic" to try the conversion out.'
    )


def read_record(target: Path) -> dict[str, str]:
    """The `origin` and the `sha256` that were noted when the file was made; empty if there is no note."""
    path = _record_path(target)
    try:
        record = json.loads(path.read_text())
        return {name: str(record[name]) for name in ("origin", "sha256")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the record of the download cannot be read ({error}). Delete it and {target.name} to fetch again."
        ) from error


def write_record(target: Path, origin: str, sha256: str) -> None:
    """Notes a file's SHA-256 and origin (a URL, say) beside it."""
    write_text(_record_path(target), json.dumps({"origin": origin, "sha256": sha256}, indent=1) + "\n")


def _record_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _checked(target: Path, source: Source) -> Checkpoint | None:
    """A cached file, after its hash was compared with the recorded one.

    None for one that cannot be read although it is the one that was fetched; it is removed, to be fetched again.
    """
    wrong = why_not_checkpoint(target)
    if wrong:
        raise CheckpointError(f"{target}: the cached file {wrong}. Delete it to download it again.")
    record, found = read_record(target), hash_file(target)
    if not record:  # put there by hand, or its record was deleted to accept a new upstream file
        record = {"origin": source.url, "sha256": found}
        write_record(target, **record)
    if record["sha256"] != found:
        raise CheckpointError(
            f"{target}: the cached file is not the one that was downloaded. "
            f"Expected SHA-256 {record['sha256']}, found {found}. Delete it to download it again from {source.url}."
        )
    try:
        _require_readable(target)
    except CheckpointError:
        target.unlink(missing_ok=True)
        _record_path(target).unlink(missing_ok=True)
        return None
    return Checkpoint(target, "official", record["origin"], found)


def _require_readable(path: Path) -> None:
    """CheckpointError unless every array can be read: what was cut or joined may begin and end as a whole file does."""
    contents = open_contents(path)
    for name, headers in contents.sets.items():
        arrays = [key for key, (_, dtype) in headers.items() if re.fullmatch(r"(u?int|b?float)\d+", dtype)]
        for _ in contents.read(name, arrays):
            pass


def _download(source: Source, target: Path) -> Checkpoint:
    """Transfers a file, and gives it its final name if it is good; the record is written before."""
    _remove_stale_parts(target)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    origin, sha256 = hub_file(source.repository, source.file) if source.repository else (source.url, None)
    try:
        with open(part, "w+b") as file:
            transfer(origin, file, sha256)
        wrong = why_not_checkpoint(part)
        if wrong:
            raise CheckpointError(
                f"{origin}: what was downloaded {wrong}. Nothing was kept. Open the address in a browser, "
                "or download the file in another way and set checkpoint to its path."
            )
        try:
            _require_readable(part)
        except CheckpointError as error:
            raise CheckpointError(f"{origin}: what was downloaded is not whole. Nothing was kept. {error}") from error
        found = hash_file(part)
        expected = read_record(target).get("sha256", found)
        if found != expected:
            raise CheckpointError(
                f"{origin}: the file differs from the one downloaded here before. "
                f"Expected SHA-256 {expected}, found {found}. "
                f"If upstream replaced it on purpose, delete {_record_path(target)} and run again."
            )
        write_record(target, origin, found)
        os.replace(part, target)
    except OSError as error:
        raise CheckpointError(
            f"{part}: cannot be written: {error}. Free some space, or set {CACHE_VARIABLE} to another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return Checkpoint(target, "official", origin, found)


def _remove_stale_parts(target: Path) -> None:
    """Deletes what a killed process left behind; a download that is under way is younger than that."""
    for part in target.parent.glob(f"{target.name}.*.part"):
        try:
            if time.time() - part.stat().st_mtime > STALE_PART_SECONDS:
                part.unlink()
        except OSError:  # another process was quicker
            continue
