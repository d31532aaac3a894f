"""timm's copies on the Hugging Face Hub: asked last, compared with the Hub's SHA-256, recorded with their address."""

import dataclasses
import hashlib
import json
import socket

import numpy as np
import pytest
import tiny
from own_checkpoints import timm_mixer
from safetensors.numpy import save
from server import files, not_found, respond, running

from utils.checkpoints.download import fetch
from utils.checkpoints.loading import load, read, recorded_hashes, resolve
from utils.errors import CheckpointError, CheckpointUnavailable
from utils.families.variants import VARIANTS, Source, get_variant

CONTENT = save(timm_mixer())
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAIN, FIXED = (f"/timm/tiny/resolve/{revision}/model.safetensors" for revision in ("main", COMMIT))
KEPT = ["mixer_tiny.timm_mixer.safetensors", "mixer_tiny.timm_mixer.safetensors.json"]


def hub_headers(sha256=SHA256):
    return {"X-Linked-Etag": f'"{sha256}"', "ETag": '"of the redirect"', "X-Repo-Commit": COMMIT}


@pytest.fixture
def servers(monkeypatch):
    """The authors' host and the Hub, on two ports of this machine; the Hub serves the file as huggingface.co does."""
    with running(monkeypatch, 2) as (authors, hub):
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")  # a slash at the end is no part of the address
        hub.answers[MAIN] = lambda handler: respond(handler, b"", **hub_headers())
        hub.answers[FIXED] = lambda handler: respond(handler, CONTENT, ETag='"x"')
        handler = hub.http.RequestHandlerClass
        handler.do_HEAD = handler.do_GET
        yield authors, hub


def variant(authors, *more):
    mirror = Source("https://huggingface.co/x", "timm_mixer", "", "timm/tiny", "model.safetensors")
    return dataclasses.replace(get_variant("mixer_tiny"), sources=(Source(f"{authors}/npz", "flax"), *more, mirror))


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("reason", ["absent", "unreachable", "forbidden"])
def test_mirror_serves_when_the_authors_host_does_not(servers, tmp_path, reason):
    authors, hub = servers
    if reason == "forbidden":
        authors.answers["/npz"] = lambda handler: respond(handler, b"", status=403)
    row = variant(closed_port() if reason == "unreachable" else authors.url)
    checkpoint = resolve(row, "official", 0, tmp_path, progress=False)
    assert (checkpoint.weights, checkpoint.url, checkpoint.sha256) == ("official", hub.url + FIXED, SHA256)
    assert files(tmp_path) == KEPT
    assert json.loads((tmp_path / KEPT[1]).read_text())["origin"] == hub.url + FIXED
    for key, array in tiny.mixer_weights().items():
        np.testing.assert_array_equal(load(checkpoint, row).arrays[key], array)
    # A second time from the cache, without a question, and with the same address.
    asked = len(authors.requests) + len(hub.requests)
    assert fetch(row, tmp_path, progress=False).url == hub.url + FIXED
    assert len(authors.requests) + len(hub.requests) == asked
    assert recorded_hashes(row, "official", 0, tmp_path) == {SHA256}


def test_authors_host_comes_first(servers, tmp_path):
    authors, hub = servers
    authors.answers["/npz"] = lambda handler: respond(handler, (tiny.GOLDEN / "mixer_tiny.npz").read_bytes())
    found = fetch(variant(authors.url), tmp_path, progress=False)
    assert found.url == f"{authors.url}/npz"
    assert hub.requests == []
    assert read(found.path, get_variant("mixer_tiny"))


def test_host_that_failed_is_not_asked_for_another_file(servers, tmp_path):
    authors, _ = servers
    authors.answers["/npz"] = lambda handler: respond(handler, b"", status=403)
    fetch(variant(authors.url, Source(f"{authors.url}/other", "flax")), tmp_path, progress=False)
    assert authors.paths() == ["/npz"]


def test_no_token_is_sent(servers, tmp_path, monkeypatch):
    authors, hub = servers
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(variant(authors.url), tmp_path, progress=False)
    assert len(hub.requests) == 2
    assert "secret" not in str(hub.requests)


def test_bytes_of_another_hash_are_refused_and_nothing_is_kept(servers, tmp_path):
    authors, hub = servers
    changed = bytearray(CONTENT)
    changed[-1] ^= 1  # a sound file of other weights
    hub.answers[FIXED] = lambda handler: respond(handler, bytes(changed))
    with pytest.raises(CheckpointError, match=rf"{FIXED}.*Expected SHA-256 {SHA256}, found [0-9a-f]{{64}}") as raised:
        fetch(variant(authors.url), tmp_path, progress=False)
    assert not isinstance(raised.value, CheckpointUnavailable)
    assert files(tmp_path) == []


def test_mirror_that_answers_with_a_page_is_refused(servers, tmp_path):
    authors, hub = servers
    page = b"<!DOCTYPE html><html>Please log in</html>"
    hub.answers[FIXED] = lambda handler: respond(handler, page)
    with pytest.raises(CheckpointError, match="It is a web page"):
        fetch(variant(authors.url), tmp_path, progress=False)
    # Whose hash is the page's own: the mirror then has a page under the file's name.
    sha256 = hashlib.sha256(page).hexdigest()
    hub.answers[MAIN] = lambda handler: respond(handler, b"", **hub_headers(sha256))
    with pytest.raises(CheckpointError, match="what was downloaded is a web page"):
        fetch(variant(authors.url), tmp_path, progress=False)
    hub.answers[MAIN] = lambda handler: respond(handler, page)
    with pytest.raises(CheckpointUnavailable, match="names no SHA-256"):
        fetch(variant(authors.url), tmp_path, progress=False)
    assert files(tmp_path) == []


@pytest.mark.parametrize("fault", ["absent", "server error", "unreachable", "offline"])
def test_mirror_that_fails_too_is_named_beside_the_authors_host(servers, tmp_path, monkeypatch, fault):
    authors, hub = servers
    if fault == "absent":
        headers = {"X-Error-Code": "EntryNotFound"}
        hub.answers[MAIN] = lambda handler: respond(handler, b"", status=404, **headers)
    elif fault == "server error":
        hub.answers[MAIN] = lambda handler: respond(handler, b"", status=500)
    elif fault == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", closed_port())
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.answers[MAIN] = not_found
    with pytest.raises(CheckpointUnavailable, match=r"/npz: HTTP 404; https://huggingface\.co/x: .*synthetic"):
        fetch(variant(authors.url), tmp_path, progress=False)
    assert files(tmp_path) == []


def test_only_copies_of_the_same_training_are_mirrors():
    mirrors = {name: source for name, row in VARIANTS.items() for source in row.sources if source.repository}
    assert {name: (source.repository, source.layout) for name, source in mirrors.items()} == {
        "convmixer_1536_20": ("timm/convmixer_1536_20.in1k", "timm"),
        "convmixer_768_32": ("timm/convmixer_768_32.in1k", "timm"),
        "convmixer_1024_20": ("timm/convmixer_1024_20_ks9_p14.in1k", "timm"),
        "mixer_b16_i21k": ("timm/mixer_b16_224.goog_in21k", "timm_mixer"),
        "mixer_l16_i21k": ("timm/mixer_l16_224.goog_in21k", "timm_mixer"),
        "mixer_b16_i1k": ("timm/mixer_b16_224.goog_in21k_ft_in1k", "timm_mixer"),
        "mixer_l16_i1k": ("timm/mixer_l16_224.goog_in21k_ft_in1k", "timm_mixer"),
    }
    for source in mirrors.values():
        assert source.file == "model.safetensors"
        assert source.url == f"https://huggingface.co/{source.repository}/resolve/main/{source.file}"
    for row in VARIANTS.values():
        assert all(not source.repository for source in row.sources[:-1]), "the mirror comes last"
        names = {(source.layout, source.repository) for source in row.sources}
        assert len(names) == len(row.sources)
