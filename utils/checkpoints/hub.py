"""A file of a repository on the Hugging Face Hub, compared with the SHA-256 that the Hub has for it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import BinaryIO

from utils.checkpoints.http import CONNECT_TIMEOUT_SECONDS, FileAbsent, transfer, unavailable
from utils.errors import CheckpointError
from utils.families.variants import Source


def transfer_from_hub(source: Source, file: BinaryIO, progress: bool) -> str:
    """Fills an empty file from the source's repository; returns the address that it came from, of a fixed commit.

    The environment variable HF_ENDPOINT names another server than huggingface.co. No token is sent. Raises FileAbsent
    when there is no such repository or file, CheckpointUnavailable when the Hub cannot be reached or its answer has no
    SHA-256, CheckpointError when the bytes have another.
    """
    from huggingface_hub import hf_hub_url

    # The library looks once, when it is imported; there too a slash at the end is no part of the address.
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    address = hf_hub_url(source.repository, source.file, endpoint=endpoint)
    commit, expected = _asked(address, endpoint)
    if commit:
        address = hf_hub_url(source.repository, source.file, revision=commit, endpoint=endpoint)
    transfer(address, file, progress)
    file.flush()
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        file.seek(0)
        page = " It is a web page." if file.read(64).lstrip().lower().startswith((b"<!doctype", b"<html")) else ""
        raise CheckpointError(
            f"{address}: what was downloaded is not the file that the Hub announced. Expected SHA-256 {expected}, "
            f"found {found}.{page} Nothing was kept. Run again, or download the file in another "
            "way and set checkpoint to its path."
        )
    return address


def _asked(address: str, endpoint: str | None) -> tuple[str | None, str]:
    """The commit and the SHA-256 of a file, by the Hub's headers; big files' ETag is their SHA-256 (Git LFS)."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        metadata = get_hf_file_metadata(address, token=False, timeout=CONNECT_TIMEOUT_SECONDS, endpoint=endpoint)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileAbsent("no such file on the Hub") from error
    except Exception as error:  # the library's own, those of its HTTP client, and offline mode's
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise unavailable(address, reason[0]) from error
    if not re.fullmatch(r"[0-9a-f]{64}", metadata.etag or ""):
        raise unavailable(address, "the answer names no SHA-256 (a login or error page, perhaps)")
    return metadata.commit_hash, metadata.etag
