"""Downloads from a real server on this machine: whole or not at all, remembered by hash, never hanging."""

import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import tiny
import torch
from server import CONTENT, files, respond, running

from utils.checkpoints import http
from utils.checkpoints.download import CACHE_VARIABLE, cache_folder, fetch, write_record
from utils.checkpoints.loading import resolve
from utils.errors import CheckpointError, CheckpointUnavailable, ParameterError
from utils.families.variants import get_variant

REPOSITORY = Path(__file__).resolve().parents[2]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
WHOLE = ["convmixer_tiny.timm.pth.tar", "convmixer_tiny.timm.pth.tar.json"]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


@pytest.fixture
def server(monkeypatch):
    with running(monkeypatch, 1) as (server,):
        yield server


def whole(handler):
    respond(handler, CONTENT)


def dropped(handler):
    respond(handler, CONTENT[:HALF], length=len(CONTENT))


def status(code):
    return lambda handler: respond(handler, b"", status=code)


def with_ranges(tag='"v1"', **headers):
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
            respond(handler, CONTENT[:HALF], length=len(CONTENT), ETag=tag, **headers)

    return answer


def once(first, then):
    answers = iter([first])
    return lambda handler: next(answers, then)(handler)


def test_download_is_kept_recorded_and_not_repeated(server, tmp_path, capfd):
    server.answers["/timm"] = whole
    first = fetch(server.variant())
    assert (first.url, first.sha256) == (f"{server.url}/timm", SHA256)
    assert first.path.read_bytes() == CONTENT
    assert "100%" in capfd.readouterr().err, "a progress bar is shown"
    assert json.loads((tmp_path / WHOLE[1]).read_text())["sha256"] == SHA256
    assert fetch(server.variant()) == first
    assert server.paths() == ["/timm"]
    assert files(tmp_path) == WHOLE
    assert capfd.readouterr().err == ""


def test_variant_without_an_official_file_has_none_to_fetch():
    with pytest.raises(ParameterError, match="mixer_tiny' has no official checkpoint"):
        resolve(get_variant("mixer_tiny"), "official", 0)


@pytest.mark.parametrize(
    ("answer", "message", "asked"),
    [
        (None, r"/timm: HTTP 404 .*; .*/sequential: HTTP 404 .*synthetic", ["/timm", "/sequential"]),
        (status(410), r"/timm: HTTP 410 .*; .*/sequential: HTTP 404", ["/timm", "/sequential"]),
        (status(403), "/timm: HTTP 403", ["/timm"]),
        (dropped, r"could not be fetched\..*/timm: ", ["/timm"] * http.ATTEMPTS),
    ],
    ids=["absent", "gone", "forbidden", "always dropped"],
)
def test_lasting_fault_is_told_and_leaves_nothing(server, tmp_path, answer, message, asked):
    server.answers |= {"/timm": answer} if answer else {}
    with pytest.raises(CheckpointUnavailable, match=message):
        fetch(server.variant())
    assert server.paths() == asked
    assert files(tmp_path) == []


def test_without_a_network_hosts_and_reason_are_said_once(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(CheckpointUnavailable) as caught:
        fetch(get_variant("convmixer_768_32"))
    assert "github.com and huggingface.co could not be reached (name resolution)" in str(caught.value)
    assert "https://" not in str(caught.value)


def replaced(handler):
    respond(handler, b"x" * HALF, length=len(CONTENT), ETag='"old"')


def wrong_part(handler):
    place = f"bytes 0-{HALF - 1}/{len(CONTENT)}"
    respond(handler, CONTENT[:HALF], status=206, **{"Content-Range": place})


@pytest.mark.parametrize(
    ("answer", "tags"),
    [
        (with_ranges(), [None, '"v1"']),
        (once(dropped, whole), [None, None]),
        (once(status(503), whole), [None, None]),
        (once(with_ranges(tag='W/"v1"'), whole), [None, None]),
        (once(replaced, with_ranges(tag='"new"')), [None, '"old"']),
        (once(with_ranges(), once(wrong_part, whole)), [None, '"v1"', None]),
        (once(wrong_part, whole), [None, None]),
    ],
    ids=["resumed", "no tag", "busy", "weak tag", "replaced meanwhile", "wrong part", "part that nobody asked for"],
)
def test_passing_fault_is_met_by_asking_for_the_rest_if_the_server_vouches_for_it(server, answer, tags):
    server.answers["/timm"] = answer
    assert fetch(server.variant()).sha256 == SHA256
    assert [headers.get("If-Range") for _, headers in server.requests] == tags
    for _, headers in server.requests:
        held = int(headers.get("Range", f"bytes={HALF}-").removeprefix("bytes=").removesuffix("-"))
        assert HALF - http.CHUNK_BYTES < held <= HALF


@pytest.mark.parametrize("other", ["tag", "total"])
def test_rest_of_another_file_is_not_joined_to_what_is_held(server, other):
    def rest(handler):
        size = len(CONTENT) + (100 if other == "total" else 0)
        start = int(handler.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        place = f"bytes {start}-{size - 1}/{size}"
        tag = '"v2"' if other == "tag" else '"v1"'
        respond(handler, b"x" * (size - start), status=206, ETag=tag, **{"Content-Range": place})

    server.answers["/timm"] = once(with_ranges(), once(rest, whole))
    assert fetch(server.variant()).sha256 == SHA256
    assert [headers.get("If-Range") for _, headers in server.requests] == [None, '"v1"', None]


def state():
    found = torch.load(io.BytesIO(CONTENT), weights_only=True)
    return found.get("state_dict", found)


def legacy():
    buffer = io.BytesIO()
    torch.save(state(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tensors():
    return safetensors.torch.save({key: value.contiguous() for key, value in state().items()})


@pytest.mark.parametrize("content", [legacy, tensors])
def test_file_cut_by_a_server_that_tells_no_length_is_not_kept(server, tmp_path, content):
    data = content()
    server.answers["/timm"] = lambda handler: respond(handler, data[:-1000], length="none")
    with pytest.raises(CheckpointError, match="/timm: what was downloaded is not whole"):
        fetch(server.variant())
    assert files(tmp_path) == []
    server.answers["/timm"] = lambda handler: respond(handler, data, length="none")
    assert fetch(server.variant()).path.read_bytes() == data


def test_cached_file_that_cannot_be_read_is_fetched_again_once(server, tmp_path):
    data = tensors()[:-1000]  # as an earlier version kept it
    (tmp_path / WHOLE[0]).write_bytes(data)
    write_record(tmp_path / WHOLE[0], f"{server.url}/timm", hashlib.sha256(data).hexdigest())
    server.answers["/timm"] = whole
    assert fetch(server.variant()).sha256 == SHA256
    assert fetch(server.variant()).sha256 == SHA256
    assert server.paths() == ["/timm"]


@pytest.mark.parametrize("length", [None, "none"])
def test_file_that_no_checkpoint_is_as_large_as_is_not_taken(server, tmp_path, monkeypatch, length):
    monkeypatch.setattr(http, "MAX_BYTES", HALF)
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, length=length)
    with pytest.raises(CheckpointError, match="more than"):
        fetch(server.variant())
    assert files(tmp_path) == []


def test_server_that_trickles_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(http, "SLOW_SECONDS", 0.1)

    def trickles(handler):
        respond(handler, b"", length=len(CONTENT))
        with contextlib.suppress(OSError):
            for byte in CONTENT:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.02)

    server.answers["/timm"] = trickles
    with pytest.raises(CheckpointUnavailable, match="the server gave no more than"):
        fetch(server.variant())


def test_redirect_to_what_is_no_address_and_a_reason_with_escapes_are_told_plainly(server):
    def said():
        with pytest.raises(CheckpointUnavailable) as caught:
            fetch(server.variant())
        return str(caught.value)

    server.answers["/timm"] = lambda handler: respond(handler, b"", status=302, Location="http://[::1")
    assert "IPv6" in said()

    def colours(handler):
        handler.send_response(403, "\x1b[2J")
        handler.end_headers()

    server.answers["/timm"] = colours
    assert r"HTTP 403 \x1b[2J" in said()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<!DOCTYPE html><html>Please log in</html>", "is a web page"),
        (b"", "is empty"),
        (CONTENT[:HALF], "is a zip archive cut short"),
    ],
    ids=["page", "empty", "short"],
)
@pytest.mark.parametrize("length", [None, "none"])  # without one HTTP has no way to tell that bytes are missing
def test_answer_that_is_no_checkpoint_never_gets_the_name_of_one(server, tmp_path, body, message, length):
    server.answers["/timm"] = lambda handler: respond(handler, body, length=length)
    with pytest.raises(CheckpointError, match=f"/timm: what was downloaded {message}"):
        fetch(server.variant())
    assert files(tmp_path) == []


MD5 = {name: hashlib.md5(content).digest() for name, content in (("right", CONTENT), ("wrong", CONTENT[1:]))}
ANNOUNCED = {
    "google": lambda md5: {"x-goog-hash": f"crc32c=n03x6A==,md5={base64.b64encode(md5).decode()}"},
    "azure": lambda md5: {"Content-MD5": base64.b64encode(md5).decode()},
}


def test_auto_is_synthetic_with_the_reason_if_nothing_can_be_fetched_but_not_for_damage(server):
    absent = resolve(server.variant(), "auto", 0)
    assert absent.weights == "synthetic"
    assert "/timm: HTTP 404" in absent.reason
    assert absent.reason in absent.notice
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, **ANNOUNCED["azure"](MD5["wrong"]))
    with pytest.raises(CheckpointError, match="Expected MD5"):
        resolve(server.variant(), "auto", 0)
    server.answers["/timm"] = whole
    found = resolve(server.variant(), "auto", 0)
    assert (found.weights, found.sha256, found.notice) == ("official", SHA256, "")


@pytest.mark.parametrize("headers", ANNOUNCED.values(), ids=ANNOUNCED)
@pytest.mark.parametrize("resumed", [True, False])
def test_bytes_that_are_not_those_the_server_announced_are_an_error(server, tmp_path, headers, resumed):
    def announce(kind):
        said = headers(MD5[kind])
        server.answers["/timm"] = with_ranges(**said) if resumed else lambda handler: respond(handler, CONTENT, **said)

    announce("wrong")
    with pytest.raises(
        CheckpointError, match=f"Expected MD5 {MD5['wrong'].hex()}, found {MD5['right'].hex()}"
    ) as error:
        fetch(server.variant())
    assert not isinstance(error.value, CheckpointUnavailable), "synthetic weights are no answer to damage"
    assert files(tmp_path) == []
    announce("right")
    assert fetch(server.variant()).sha256 == SHA256
    assert len(server.requests) == (4 if resumed else 2)


@pytest.mark.parametrize(
    "headers",
    [{"ETag": f'"{MD5["wrong"].hex()}"'}, {"Content-MD5": "no base64"}, {"x-goog-hash": "crc32c=n03x6A=="}],
    ids=["tag", "garbage", "crc32c alone"],
)
def test_what_is_no_md5_of_the_file_is_not_held_against_it(server, headers):
    server.answers["/timm"] = lambda handler: respond(handler, CONTENT, **headers)
    assert fetch(server.variant()).sha256 == SHA256


def test_tampered_cache_is_an_error_and_not_silently_replaced(server, tmp_path):
    server.answers["/timm"] = whole
    path = fetch(server.variant()).path
    changed = bytearray(CONTENT)
    changed[HALF] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=rf"{path.name}.*Expected SHA-256 {SHA256}.*Delete it"):
        fetch(server.variant())
    assert path.read_bytes() == changed
    path.write_bytes(CONTENT[:HALF])
    with pytest.raises(CheckpointError, match="cut short"):
        fetch(server.variant())
    path.unlink()
    assert fetch(server.variant()).sha256 == SHA256
    (tmp_path / WHOLE[1]).write_text("{")
    with pytest.raises(CheckpointError, match=r"\.json: the record of the download cannot be read"):
        fetch(server.variant())


def test_other_file_under_the_same_address_is_an_error_until_its_record_is_deleted(server, tmp_path):
    server.answers["/timm"] = whole
    fetch(server.variant()).path.unlink()
    other = (tiny.GOLDEN / "convmixer_tiny_relu.timm.pth.tar").read_bytes()
    server.answers["/timm"] = lambda handler: respond(handler, other)
    with pytest.raises(CheckpointError, match=r"differs from the one downloaded here before.*delete .*\.json"):
        fetch(server.variant())
    (tmp_path / WHOLE[1]).unlink()
    assert fetch(server.variant()).path.read_bytes() == other


def test_silent_server_does_not_hang(server, monkeypatch):
    monkeypatch.setattr(http, "READ_TIMEOUT_SECONDS", 0.2)
    released = threading.Event()
    server.answers["/timm"] = lambda handler: released.wait(60)
    with pytest.raises(CheckpointUnavailable, match="timed out"):  # and not that the connection was closed
        fetch(server.variant())
    released.set()


FETCH = """
import dataclasses, sys
from utils.checkpoints.download import fetch
from utils.families.variants import Source, get_variant
variant = dataclasses.replace(get_variant("convmixer_tiny"), sources=(Source(sys.argv[1] + "/timm", "timm"),))
print(fetch(variant).sha256)
"""


def fetching(server):
    command = [sys.executable, "-c", FETCH, server.url]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def test_killed_download_leaves_no_file_of_that_name(server, tmp_path):
    half_sent, finish = threading.Event(), threading.Event()

    def stalls(handler):
        respond(handler, CONTENT[:HALF], length=len(CONTENT))
        half_sent.set()
        finish.wait(300)

    server.answers["/timm"] = stalls
    process = fetching(server)
    assert half_sent.wait(300)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish.set()
    (left,) = files(tmp_path)
    assert left.endswith(".part")
    server.answers["/timm"] = whole
    assert fetch(server.variant()).sha256 == SHA256
    # What the killed process left goes when it is clearly nobody's any more.
    os.utime(tmp_path / left, (0, 0))
    (tmp_path / WHOLE[0]).unlink()
    fetch(server.variant())
    assert files(tmp_path) == WHOLE


def test_two_processes_at_once_both_get_the_file(server, tmp_path):
    together = threading.Barrier(2)

    def slowly(handler):
        together.wait(300)
        whole(handler)

    server.answers["/timm"] = slowly
    processes = [fetching(server) for _ in range(2)]
    assert [process.communicate(timeout=600)[0].strip() for process in processes] == [SHA256, SHA256]
    assert (tmp_path / WHOLE[0]).read_bytes() == CONTENT
    assert files(tmp_path) == WHOLE


def test_cache_folder_is_the_environments_or_the_systems(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "by environment"))
    assert cache_folder() == tmp_path / "by environment"
    assert cache_folder().is_dir()
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "system" / "mixers-to-tensorflow"


def test_unusable_cache_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "folder"))
    with pytest.raises(CheckpointError, match=f"cache folder .*file.*Set {CACHE_VARIABLE}"):
        cache_folder()


def test_full_disk_is_reported_and_leaves_nothing(server, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(http, "_attempt", full)
    with pytest.raises(CheckpointError, match=f"No space left on device.*{CACHE_VARIABLE}"):
        fetch(server.variant())
    assert files(tmp_path) == []
