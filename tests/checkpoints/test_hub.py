"""timm's copies on the Hugging Face Hub: asked last, compared with the Hub's SHA-256, recorded with their address."""

import dataclasses
import hashlib
import socket

import pytest
from own_checkpoints import assert_same, timm_mixer
from safetensors.numpy import save
from server import files, not_found, respond, running
from tiny import GOLDEN, mixer_weights

from utils.checkpoints.download import CACHE_VARIABLE, fetch
from utils.checkpoints.loading import Wanted, load, recorded_hashes
from utils.errors import CheckpointError, CheckpointUnavailable
from utils.families.variants import Source, get_variant

CONTENT = save(timm_mixer())
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAIN, FIXED = (f"/timm/tiny/resolve/{revision}/model.safetensors" for revision in ("main", COMMIT))
PAGE = b"<!DOCTYPE html><html>Please log in</html>"


def announcing(sha256=SHA256):
    headers = {"X-Linked-Etag": f'"{sha256}"', "ETag": '"of the redirect"', "X-Repo-Commit": COMMIT}
    return lambda handler: respond(handler, b"", **headers)


@pytest.fixture
def servers(monkeypatch, tmp_path):
    """The authors' host and the Hub, on two ports of this machine; the Hub serves the file as huggingface.co does."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with running(monkeypatch, 2) as (authors, hub):
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")  # a slash at the end is no part of the address
        hub.answers[MAIN] = announcing()
        hub.answers[FIXED] = lambda handler: respond(handler, CONTENT, ETag='"x"')
        handler = hub.http.RequestHandlerClass
        handler.do_HEAD = handler.do_GET
        yield authors, hub


def variant(authors, *more):
    mirror = Source("https://huggingface.co/x", "timm_mixer", "timm/tiny", "model.safetensors")
    return dataclasses.replace(get_variant("mixer_tiny"), sources=(Source(f"{authors}/npz", "flax"), *more, mirror))


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("reason", ["absent", "unreachable", "forbidden"])
def test_mirror_serves_when_the_authors_host_does_not(servers, tmp_path, monkeypatch, reason):
    authors, hub = servers
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    if reason == "forbidden":
        authors.answers["/npz"] = lambda handler: respond(handler, b"", status=403)
    row = variant(closed_port() if reason == "unreachable" else authors.url)
    checkpoint = fetch(row)
    assert (checkpoint.weights, checkpoint.url, checkpoint.sha256) == ("official", hub.url + FIXED, SHA256)
    assert files(tmp_path) == ["mixer_tiny.timm_mixer.safetensors", "mixer_tiny.timm_mixer.safetensors.json"]
    assert_same(load(checkpoint, Wanted(variant=row)).arrays, mixer_weights())
    assert "secret" not in str(hub.requests), "a token was sent"
    # A second time from the cache, without a question, and with the same address.
    asked = len(authors.requests) + len(hub.requests)
    assert fetch(row).url == hub.url + FIXED
    assert len(authors.requests) + len(hub.requests) == asked
    assert recorded_hashes(row, "official", 0) == {SHA256}


def test_authors_host_comes_first(servers):
    authors, hub = servers
    authors.answers["/npz"] = lambda handler: respond(handler, (GOLDEN / "mixer_tiny.npz").read_bytes())
    assert fetch(variant(authors.url)).url == f"{authors.url}/npz"
    assert hub.requests == []


def test_host_that_failed_is_not_asked_for_another_file(servers):
    authors, _ = servers
    authors.answers["/npz"] = lambda handler: respond(handler, b"", status=403)
    fetch(variant(authors.url, Source(f"{authors.url}/other", "flax")))
    assert authors.paths() == ["/npz"]


@pytest.mark.parametrize(
    ("sent", "announced", "message"),
    [
        # A sound file of other weights.
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), SHA256, rf"{FIXED}.*Expected SHA-256 {SHA256}, found [0-9a-f]{{64}}"),
        (PAGE, hashlib.sha256(PAGE).hexdigest(), "what was downloaded is a web page"),
    ],
    ids=["other weights", "page under the file's name"],
)
def test_file_that_is_not_the_announced_one_or_no_checkpoint_is_refused(servers, tmp_path, sent, announced, message):
    authors, hub = servers
    hub.answers |= {MAIN: announcing(announced), FIXED: lambda handler: respond(handler, sent)}
    with pytest.raises(CheckpointError, match=message) as raised:
        fetch(variant(authors.url))
    assert not isinstance(raised.value, CheckpointUnavailable)
    assert files(tmp_path) == []


@pytest.mark.parametrize("fault", ["absent", "server error", "page", "unreachable", "offline"])
def test_mirror_that_fails_too_is_named_beside_the_authors_host(servers, tmp_path, monkeypatch, fault):
    authors, hub = servers
    if fault == "absent":
        headers = {"X-Error-Code": "EntryNotFound"}
        hub.answers[MAIN] = lambda handler: respond(handler, b"", status=404, **headers)
    elif fault == "server error":
        hub.answers[MAIN] = lambda handler: respond(handler, b"", status=500)
    elif fault == "page":
        hub.answers[MAIN] = lambda handler: respond(handler, PAGE)
    elif fault == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", closed_port())
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.answers[MAIN] = not_found
    with pytest.raises(CheckpointUnavailable, match=r"/npz: HTTP 404 .*; https://huggingface\.co/x: .*synthetic"):
        fetch(variant(authors.url))
    assert files(tmp_path) == []
