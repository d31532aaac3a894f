"""HTTP transfer of a big file into an open one: short timeouts, retries, resume, and only the bytes announced."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from utils.errors import CheckpointError

if TYPE_CHECKING:
    import urllib3

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
ATTEMPTS = 3
BACKOFF_SECONDS = 1.0  # doubled after each failed attempt
CHUNK_BYTES = 1 << 20  # what a dropped connection can lose
MAX_BYTES = 4 << 30  # four times the largest official file; a server need not say where it ends
LEAST_BYTES_PER_SECOND, SLOW_SECONDS = 1000, 60  # a server that gives less for so long is not waited for

UNKNOWN_HOST = "name resolution"  # the reason where no address of a host was found
_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
_ABSENT_STATUS = {404, 410}


class NoAnswer(Exception):
    """A host did not give a file; the message says why."""


class FileAbsent(NoAnswer):
    """The host answered that it has no such file, so it is worth asking for another one."""


@dataclass
class _Announced:
    """What the server said of the whole file: its MD5, the tag that permits to resume, and its bytes."""

    md5: str | None = None
    tag: str | None = None
    total: int | None = None


def hub_file(repository: str, name: str) -> tuple[str, str]:
    """Address, of a fixed commit, and SHA-256 of a big file on the Hugging Face Hub.

    The environment variable HF_ENDPOINT names another server than huggingface.co. No token is sent. Raises FileAbsent
    or NoAnswer, also for an answer without a SHA-256.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    # The library reads it only when it is imported. A slash at the end is no part of the address, there as here.
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    address = hf_hub_url(repository, name, endpoint=endpoint)
    try:
        metadata = get_hf_file_metadata(address, token=False, timeout=CONNECT_TIMEOUT_SECONDS, endpoint=endpoint)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileAbsent("no such file on the Hub") from error
    except Exception as error:  # the library's own, those of its HTTP client, and offline mode's
        raise NoAnswer(_why(error)) from error
    if not re.fullmatch(r"[0-9a-f]{64}", metadata.etag or ""):  # of big files the ETag is the SHA-256 (Git LFS)
        raise NoAnswer("the answer names no SHA-256 (a login or error page, perhaps)")
    return hf_hub_url(repository, name, revision=metadata.commit_hash, endpoint=endpoint), metadata.etag


def _why(error: BaseException) -> str:
    """What went wrong, without the address, which libraries repeat at each of their levels."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, socket.gaierror):
            return UNKNOWN_HOST
        cause = cause.__cause__ or cause.__context__
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = str(inner).rpartition(": ")[2] if inner else str(error).strip().partition("\n")[0]
    return text or type(error).__name__


def transfer(url: str, file: BinaryIO, sha256: str | None = None) -> None:
    """Fills an empty file from a URL in a few attempts, resumed if the server can, with a progress bar.

    The bytes must have `sha256`, or else the MD5 that the server announces, if it does. Raises FileAbsent for HTTP 404
    or 410, CheckpointError for another hash or more than `MAX_BYTES`, NoAnswer for anything else that did not end well.
    """
    import requests
    import urllib3

    announced = _Announced()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _attempt(url, file, announced)
            break
        # ValueError: what a redirect names is no address. urllib3's are those of a body that is read as it comes.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            status = error.response.status_code if isinstance(error, requests.HTTPError) else None
            reason = f"HTTP {status} {error.response.reason}" if status else _why(error)
            if status in _ABSENT_STATUS:
                raise FileAbsent(reason) from error
            if status == 416:  # what we hold is not a beginning of what the server has
                announced.tag = None
            # A host that swallows packets will do so again: do not make an offline user wait for it three times.
            lasting = isinstance(error, requests.ConnectTimeout | ValueError) or (
                status not in {None, 416, *_RETRIED_STATUS}
            )
            if lasting or attempt == ATTEMPTS:
                raise NoAnswer(reason) from error
        time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
    algorithm, expected = ("SHA-256", sha256) if sha256 else ("MD5", announced.md5)
    file.seek(0)
    if expected:
        found = hashlib.file_digest(file, algorithm.replace("-", "")).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"{url}: what was downloaded is not the file that the server announced. Expected {algorithm} "
                f"{expected}, found {found}. Nothing was kept. Run again, or download the file in another way and set "
                "checkpoint to its path."
            )


def _attempt(url: str, file: BinaryIO, announced: _Announced) -> None:
    """One attempt, which continues after the bytes in `file` if the server's tag vouches for them."""
    import requests
    from tqdm import tqdm

    held = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}  # so that Content-Length counts the bytes that arrive
    if held and announced.tag:
        headers |= {"Range": f"bytes={held}-", "If-Range": announced.tag}
    timeouts = CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS
    with requests.get(url, headers=headers, timeout=timeouts, stream=True) as response:
        response.raise_for_status()
        if response.status_code == 206:
            part = re.fullmatch(rf"bytes {held}-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            same = response.headers.get("ETag", announced.tag) == announced.tag
            if not (part and same and int(part[1]) + 1 == int(part[2]) == (announced.total or int(part[2]))):
                announced.tag = None  # the next attempt starts afresh
                raise requests.ConnectionError("the server sent another part, or of another file, than was asked for")
        else:
            held = 0
            file.seek(0)
            file.truncate()
            encoded = response.headers.get("Content-Encoding", "identity") != "identity"
            announced.md5 = None if encoded else _announced_md5(response.headers)
            tag = response.headers.get("ETag", "")
            announced.tag = tag if tag.startswith('"') else None  # a weak tag does not promise the same bytes
        length = response.headers.get("Content-Length", "")
        total = held + int(length) if length.isdecimal() else None
        announced.total = total
        with tqdm(total=total, initial=held, unit="B", unit_scale=True) as bar:
            for chunk in _chunks(response.raw):
                held += len(chunk)
                if max(held, total or 0) > MAX_BYTES:
                    raise CheckpointError(f"{url}: it has more than {MAX_BYTES:,} bytes, which no checkpoint here has.")
                file.write(chunk)
                bar.update(len(chunk))


def _chunks(body: urllib3.HTTPResponse) -> Iterator[bytes]:
    """The bytes as they come; an error if fewer than announced do, or if they come too slowly."""
    import requests

    since, came = time.monotonic(), 0
    # Before urllib3 2 there is none that returns what has come so far.
    while chunk := getattr(body, "read1", body.read)(CHUNK_BYTES, decode_content=True):
        yield chunk
        came += len(chunk)
        if (seconds := time.monotonic() - since) >= SLOW_SECONDS:
            if came < LEAST_BYTES_PER_SECOND * seconds:
                raise requests.ConnectionError(f"the server gave no more than {came:,} bytes in {seconds:.0f} seconds")
            since, came = time.monotonic(), 0


def _announced_md5(headers: Mapping[str, str]) -> str | None:
    """The MD5, in hexadecimal, that a server gives for the whole file, in base64; None if it gives none.

    `x-goog-hash` is Google Cloud Storage's, the others are Azure's, where GitHub keeps release files.
    """
    for name in ("x-goog-hash", "Content-MD5", "x-ms-blob-content-md5"):
        if found := re.search(r"(?:^|md5=)([A-Za-z0-9+/]{22}==)", headers.get(name, "")):
            return base64.b64decode(found[1]).hex()
    return None
