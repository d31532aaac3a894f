"""HTTP transfer of one big file into an open file: short timeouts, retries, resume, no short read, no other bytes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from utils.errors import CheckpointError, CheckpointUnavailable

if TYPE_CHECKING:
    import requests

CONNECT_TIMEOUT_SECONDS = 10
READ_TIMEOUT_SECONDS = 30
ATTEMPTS = 3
BACKOFF_SECONDS = 1.0  # doubled after each failed attempt
CHUNK_BYTES = 1 << 20  # what a dropped connection can lose

_RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
_ABSENT_STATUS = {404, 410}


class FileAbsent(Exception):
    """The server answered that it has no such file, so another source is worth a try."""


@dataclass
class _Answer:
    """What the last attempt taught: the size and the MD5 to reach, and the tag that permits a resume."""

    expected_bytes: int | None = None
    expected_md5: str | None = None
    validator: str | None = None


def transfer(url: str, file: BinaryIO, progress: bool) -> None:
    """Fills an empty file from a URL in a few attempts, resumed where the server can.

    Raises FileAbsent for HTTP 404 or 410, CheckpointError where the bytes have another MD5 than the server announced
    (`announced_md5`), CheckpointUnavailable for anything else that did not end well.
    """
    import requests

    state = _Answer()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(url, file, state, progress)
        except requests.HTTPError as error:
            status = error.response.status_code
            if status in _ABSENT_STATUS:
                raise FileAbsent(f"HTTP {status}") from error
            if status == 416:  # what we hold is not a beginning of what the server has
                state.validator = None
            elif status not in _RETRIED_STATUS:
                raise unavailable(url, f"HTTP {status} {error.response.reason}") from error
            cause: Exception = error
        except requests.RequestException as error:
            cause = error
        # A host that swallows packets will do so again: do not make an offline user wait for it three times.
        if attempt == ATTEMPTS or isinstance(cause, requests.ConnectTimeout):
            raise unavailable(url, cause) from cause
        time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))


def _attempt(url: str, file: BinaryIO, state: _Answer, progress: bool) -> None:
    """One attempt, which continues after the bytes in `file` if the server's tag vouches for them."""
    import pooch
    import requests

    held = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}  # so that Content-Length counts the bytes that arrive
    if held and state.validator:
        headers |= {"Range": f"bytes={held}-", "If-Range": state.validator}

    def on_answer(response: requests.Response, *_: object, **__: object) -> None:
        if response.is_redirect or response.status_code >= 400:
            return
        if response.status_code == 206:
            part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if not part or int(part[1]) != held:
                state.validator = None  # the next attempt starts afresh
                raise requests.ConnectionError("the server sent another part of the file than was asked for")
            state.expected_bytes = int(part[2])
            return
        file.seek(0)
        file.truncate()
        length = response.headers.get("Content-Length", "")
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        state.expected_bytes = int(length) if length.isdigit() and not encoded else None
        state.expected_md5 = None if encoded else announced_md5(response.headers)
        tag = response.headers.get("ETag", "")
        state.validator = tag if tag.startswith('"') else None  # a weak tag does not promise the same bytes

    downloader = pooch.HTTPDownloader(
        progressbar=progress,
        chunk_size=CHUNK_BYTES,
        headers=headers,
        hooks={"response": on_answer},
        timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
    )
    downloader(url, file, None)
    if state.expected_bytes is not None and file.tell() != state.expected_bytes:
        raise requests.ConnectionError(f"{file.tell()} of {state.expected_bytes} bytes arrived")
    file.seek(0)
    if state.expected_md5 and (found := hashlib.file_digest(file, "md5").hexdigest()) != state.expected_md5:
        raise CheckpointError(
            f"{url}: what was downloaded is not the file that the server announced. Expected MD5 {state.expected_md5}, "
            f"found {found}. Nothing was kept. Run again, or download the file in another way and set checkpoint to "
            "its path."
        )


def announced_md5(headers: Mapping[str, str]) -> str | None:
    """The MD5, in hexadecimal, that a server gives for the whole file; None where it gives none.

    `x-goog-hash` (Google Cloud Storage) and `Content-MD5` (RFC 1864; Azure, where GitHub keeps release files) say it in
    base64. An ETag is one only where the server is known to make it so: Google's, and Amazon S3's without a key of its
    own for encryption. Others put 32 hexadecimal digits of something else there.
    """
    tags = re.findall(r"md5=([A-Za-z0-9+/]{22}==)", headers.get("x-goog-hash", ""))
    for encoded in (*tags, headers.get("Content-MD5", ""), headers.get("x-ms-blob-content-md5", "")):
        try:
            digest = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            continue
        if len(digest) == 16:
            return digest.hex()
    amazon = headers.get("Server") == "AmazonS3" and "kms" not in headers.get("x-amz-server-side-encryption", "")
    tag = re.fullmatch(r'"([0-9a-f]{32})"', headers.get("ETag", ""))
    return tag[1] if tag and (amazon or "x-goog-generation" in headers) else None


def unavailable(url: str, cause: object) -> CheckpointUnavailable:
    """The error that says what could not be fetched, why, and what to do."""
    return CheckpointUnavailable(
        f"{url}: the official checkpoint could not be fetched: {cause}. Check the network connection, "
        "or download the file elsewhere and set checkpoint to its path, "
        'or set checkpoint to "synthetic" to try the conversion out.'
    )
