"""Downloads from a real server on this machine: whole or not at all, remembered by hash, never hanging."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from server import CONTENT, files, respond, running

from utils.checkpoints import http as transfer, loading
from utils.checkpoints.download import CACHE_VARIABLE, cache_folder, fetch
from utils.errors import CheckpointError, CheckpointUnavailable
from utils.families.variants import get_variant

REPOSITORY = Path(__file__).resolve().parents[2]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def server(monkeypatch):
    with running(monkeypatch, 1) as (server,):
        yield server


def whole(handler):
    respond(handler, CONTENT)


def dropped(handler):
    respond(handler, CONTENT[:HALF], length=len(CONTENT))


def with_ranges(tag='"v1"'):
    """A server that drops the connection half-way, and serves the rest when asked with its tag."""

    def answer(handler):
        wanted = handler.headers.get("Range")
        if wanted and handler.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            place = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            respond(handler, CONTENT[start:], status=206, ETag=tag, **{"Content-Range": place})
        elif wanted:
            respond(handler, CONTENT, ETag=tag)
        else:
            respond(handler, CONTENT[:HALF], length=len(CONTENT), ETag=tag)

    return answer


def once(first, then):
    answers = iter([first])
    return lambda handler: next(answers, then)(handler)


WHOLE = ["convmixer_tiny.timm.pth.tar", "convmixer_tiny.timm.pth.tar.json"]


def test_download_is_kept_recorded_and_not_repeated(server, tmp_path, capfd):
    server.answers["/timm"] = whole
    first = fetch(server.variant(), tmp_path)
    assert (first.url, first.sha256) == (f"{server.url}/timm", SHA256)
    assert first.path.read_bytes() == CONTENT
    assert "100%" in capfd.readouterr().err, "a progress bar is shown"
    assert json.loads((tmp_path / WHOLE[1]).read_text())["sha256"] == SHA256
    assert fetch(server.variant(), tmp_path, progress=False) == first
    assert server.paths() == ["/timm"]
    assert files(tmp_path) == WHOLE
    assert capfd.readouterr().err == ""


def status(code):
    return lambda handler: respond(handler, b"", status=code)


@pytest.mark.parametrize("fault", [dropped, status(503)], ids=["dropped connection", "busy server"])
def test_passing_fault_is_met_by_asking_again_from_the_start(server, tmp_path, fault):
    server.answers["/timm"] = once(fault, whole)
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    assert "Range" not in server.requests[1][1], "without a tag nobody vouches for what is already here"


@pytest.mark.parametrize(
    ("answer", "message", "asked"),
    [
        (None, r"/timm: HTTP 404; .*/sequential: HTTP 404.*synthetic", ["/timm", "/sequential"]),
        (status(410), r"/timm: HTTP 410; .*/sequential: HTTP 404", ["/timm", "/sequential"]),
        (status(403), "HTTP 403", ["/timm"]),
        (dropped, "/timm: the official checkpoint could not be fetched", ["/timm"] * transfer.ATTEMPTS),
    ],
    ids=["absent", "gone", "forbidden", "always dropped"],
)
def test_lasting_fault_is_told_and_leaves_nothing(server, tmp_path, answer, message, asked):
    server.answers |= {"/timm": answer} if answer else {}
    with pytest.raises(CheckpointUnavailable, match=message):
        fetch(server.variant(), tmp_path, progress=False)
    assert server.paths() == asked
    assert files(tmp_path) == []


def test_dropped_connection_is_resumed_when_the_server_vouches_for_the_rest(server, tmp_path):
    server.answers["/timm"] = with_ranges()
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    held = int(server.requests[1][1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert HALF - transfer.CHUNK_BYTES < held <= HALF
    assert len(server.requests) == 2


def test_download_is_not_resumed_by_a_tag_that_does_not_promise_the_same_bytes(server, tmp_path):
    weak = with_ranges(tag='W/"v1"')
    server.answers["/timm"] = once(weak, whole)
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    assert "Range" not in server.requests[1][1]


def test_file_replaced_during_the_download_is_fetched_from_the_start(server, tmp_path):
    def replaced(handler):
        respond(handler, b"x" * HALF, length=len(CONTENT), ETag='"old"')

    server.answers["/timm"] = once(replaced, with_ranges(tag='"new"'))
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    assert server.requests[1][1]["If-Range"] == '"old"'


def test_wrong_part_of_the_file_is_not_appended(server, tmp_path):
    def wrong_part(handler):
        place = f"bytes 0-{HALF - 1}/{len(CONTENT)}"
        respond(handler, CONTENT[:HALF], status=206, **{"Content-Range": place})

    server.answers["/timm"] = once(with_ranges(), once(wrong_part, whole))
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    assert "Range" in server.requests[1][1]
    assert "Range" not in server.requests[2][1], "such a server is asked for the whole"
    (tmp_path / WHOLE[0]).unlink()
    server.answers["/timm"] = once(wrong_part, whole)  # nobody asked for a part
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is neither a PyTorch, .safetensors nor"),
        (CONTENT[:HALF], "is a zip archive cut short"),
    ],
    ids=["page", "empty", "pointer", "short"],
)
@pytest.mark.parametrize("length", [None, "none"])  # without one HTTP has no way to tell that bytes are missing
def test_answer_that_is_no_checkpoint_never_gets_the_name_of_one(server, tmp_path, body, message, length):
    server.answers["/timm"] = lambda handler: respond(handler, body, length=length)
    with pytest.raises(CheckpointError, match=f"/timm: what was downloaded {message}"):
        fetch(server.variant(), tmp_path, progress=False)
    assert files(tmp_path) == []


def test_auto_is_synthetic_with_the_reason_where_nothing_can_be_had_but_not_for_damage(server, tmp_path):
    absent = loading.resolve(server.variant(), "auto", 0, tmp_path, progress=False)
    assert absent.weights == "synthetic"
    assert "/timm: HTTP 404" in absent.reason
    assert "recognise nothing. The official checkpoint is not used: " in absent.notice
    server.answers["/timm"] = whole
    found = loading.resolve(server.variant(), "auto", 0, tmp_path / "other", progress=False)
    assert (found.weights, found.sha256, found.notice) == ("official", SHA256, "")
    damaged = lambda handler: respond(handler, CONTENT, ETag=f'"{MD5["wrong"].hex()}"', Server="AmazonS3")  # noqa: E731
    server.answers["/timm"] = damaged
    with pytest.raises(CheckpointError, match="Expected MD5"):
        loading.resolve(server.variant(), "auto", 0, tmp_path / "third", progress=False)


def test_auto_of_a_tiny_model_is_synthetic(tmp_path):
    found = loading.resolve(get_variant("mixer_tiny"), "auto", 0, tmp_path)
    assert found.weights == "synthetic"
    assert "there is none" in found.reason
    assert loading.resolve(get_variant("mixer_tiny"), "synthetic", 0, tmp_path).reason == ""


MD5 = {name: hashlib.md5(content).digest() for name, content in (("right", CONTENT), ("wrong", CONTENT[1:]))}
ANNOUNCED = {
    "google": lambda md5: {"x-goog-hash": f"crc32c=n03x6A==,md5={base64.b64encode(md5).decode()}"},
    "google's tag": lambda md5: {"ETag": f'"{md5.hex()}"', "x-goog-generation": "1"},
    "azure": lambda md5: {"Content-MD5": base64.b64encode(md5).decode(), "ETag": '"0x8DB4A"'},
    "amazon": lambda md5: {"ETag": f'"{md5.hex()}"', "Server": "AmazonS3"},
}


@pytest.mark.parametrize("headers", ANNOUNCED.values(), ids=ANNOUNCED)
def test_bytes_that_are_not_those_the_server_announced_are_an_error(server, tmp_path, headers):
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, **headers(MD5["wrong"]))
    expected = f"/timm: .*Expected MD5 {MD5['wrong'].hex()}, found {MD5['right'].hex()}"
    with pytest.raises(CheckpointError, match=expected) as error:
        fetch(server.variant(), tmp_path, progress=False)
    assert not isinstance(error.value, CheckpointUnavailable), "synthetic weights are no answer to damage"
    assert files(tmp_path) == []
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, **headers(MD5["right"]))
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{MD5["wrong"].hex()}"'},
        {"ETag": f'"{MD5["wrong"].hex()}"', "Server": "AmazonS3", "x-amz-server-side-encryption": "aws:kms"},
        {"Content-MD5": "no base64"},
        {"Content-MD5": base64.b64encode(b"short").decode()},
        {"x-goog-hash": "crc32c=n03x6A=="},
    ],
    ids=["unknown server", "encrypted", "garbage", "short", "crc32c alone"],
)
def test_what_is_no_md5_of_the_file_is_not_held_against_it(server, tmp_path, headers):
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, **headers)
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256


def test_announced_md5_is_that_of_the_whole_when_the_download_is_resumed(server, tmp_path):
    tag = f'"{MD5["right"].hex()}"'

    def answer(handler):
        if handler.headers.get("Range"):
            with_ranges(tag)(handler)
        else:
            respond(handler, CONTENT[:HALF], length=len(CONTENT), ETag=tag, **ANNOUNCED["google"](MD5["right"]))

    server.answers["/timm"] = answer
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    (tmp_path / WHOLE[0]).unlink()

    def swapped(handler):
        tampered = CONTENT[:HALF][::-1]
        whole_answer = respond if not handler.headers.get("Range") else lambda *a, **k: with_ranges(tag)(handler)
        whole_answer(handler, tampered, length=len(CONTENT), ETag=tag, **ANNOUNCED["google"](MD5["right"]))

    server.answers["/timm"] = swapped
    with pytest.raises(CheckpointError, match="Expected MD5"):
        fetch(server.variant(), tmp_path, progress=False)


def test_tampered_cache_is_an_error_and_not_silently_replaced(server, tmp_path):
    server.answers["/timm"] = whole
    path = fetch(server.variant(), tmp_path, progress=False).path
    changed = bytearray(CONTENT)
    changed[HALF] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=rf"{path.name}.*Expected SHA-256 {SHA256}.*Delete it"):
        fetch(server.variant(), tmp_path, progress=False)
    assert path.read_bytes() == changed
    path.write_bytes(CONTENT[:HALF])
    with pytest.raises(CheckpointError, match="cut short"):
        fetch(server.variant(), tmp_path, progress=False)
    path.unlink()
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    (tmp_path / WHOLE[1]).write_text("{")
    with pytest.raises(CheckpointError, match=r"\.json: the record of the download cannot be read"):
        fetch(server.variant(), tmp_path, progress=False)


def test_other_file_under_the_same_address_is_an_error(server, tmp_path):
    server.answers["/timm"] = whole
    fetch(server.variant(), tmp_path, progress=False).path.unlink()
    other = (REPOSITORY / "tests/data/golden/convmixer_tiny_relu.timm.pth.tar").read_bytes()
    server.answers["/timm"] = lambda handler: respond(handler, other)
    with pytest.raises(CheckpointError, match=r"differs from the one downloaded here before.*delete .*\.json"):
        fetch(server.variant(), tmp_path, progress=False)
    (tmp_path / WHOLE[1]).unlink()
    assert fetch(server.variant(), tmp_path, progress=False).path.read_bytes() == other


def test_silent_server_does_not_hang(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "READ_TIMEOUT_SECONDS", 0.2)
    released = threading.Event()
    server.answers["/timm"] = lambda handler: released.wait(60)
    with pytest.raises(CheckpointUnavailable, match="timed out"):  # and not that the connection was closed
        fetch(server.variant(), tmp_path, progress=False)
    released.set()


FETCH = """
import dataclasses, sys
from utils.checkpoints.download import fetch
from utils.families.variants import Source, get_variant
variant = dataclasses.replace(get_variant("convmixer_tiny"), sources=(Source(sys.argv[1] + "/timm", "timm"),))
print(fetch(variant, sys.argv[2], progress=False).sha256)
"""


def fetching(server, folder):
    command = [sys.executable, "-c", FETCH, server.url, str(folder)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_killed_download_leaves_no_file_of_that_name(server, tmp_path):
    half_sent, finish = threading.Event(), threading.Event()

    def stalls(handler):
        respond(handler, CONTENT[:HALF], length=len(CONTENT))
        half_sent.set()
        finish.wait(300)

    server.answers["/timm"] = stalls
    process = fetching(server, tmp_path)
    assert half_sent.wait(300)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish.set()
    (left,) = files(tmp_path)
    assert left.endswith(".part")
    server.answers["/timm"] = whole
    assert fetch(server.variant(), tmp_path, progress=False).sha256 == SHA256
    # What the killed process left goes when it is clearly nobody's any more.
    os.utime(tmp_path / left, (0, 0))
    (tmp_path / WHOLE[0]).unlink()
    fetch(server.variant(), tmp_path, progress=False)
    assert files(tmp_path) == WHOLE


def test_two_processes_at_once_both_get_the_file(server, tmp_path):
    together = threading.Barrier(2)

    def slowly(handler):
        together.wait(300)
        whole(handler)

    server.answers["/timm"] = slowly
    processes = [fetching(server, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=600)[0].strip() for process in processes] == [SHA256, SHA256]
    assert (tmp_path / WHOLE[0]).read_bytes() == CONTENT
    assert files(tmp_path) == WHOLE


def test_cache_folder_is_chosen_by_argument_then_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "by environment"))
    assert cache_folder(tmp_path / "by argument") == tmp_path / "by argument"
    assert cache_folder() == tmp_path / "by environment"
    assert cache_folder().is_dir()
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder().name == "mixers-to-tensorflow"


def test_unusable_cache_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"cache folder .*file.*Set {CACHE_VARIABLE}"):
        cache_folder(tmp_path / "file" / "folder")


def test_full_disk_is_reported_and_leaves_nothing(server, tmp_path, monkeypatch):
    server.answers["/timm"] = whole

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_attempt", full)
    with pytest.raises(CheckpointError, match=f"No space left on device.*{CACHE_VARIABLE}"):
        fetch(server.variant(), tmp_path, progress=False)
    assert files(tmp_path) == []
