"""Opening a model: folder, tarball or address; and refusing, in words, what is none or was changed."""

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import extractors
import numpy as np
import pytest

from utils.artefact.opening import open_model, open_models
from utils.artefact.tarball import extract_tarball, write_tarball
from utils.errors import PackagingError, ParameterError
from utils.export import saved_model
from utils.models.variants import get_variant

VARIANT = get_variant("convmixer_tiny")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny artefact, published without the comparison that a conversion makes."""
    return extractors.published("synthetic")


def test_folder_and_tarball_open_to_the_same_model(published):
    for path in (published.folder, published.tarball):
        opened = open_model(str(path))
        assert opened.name == "convmixer_tiny_classification_synthetic"
        assert opened.output == "logits"
        assert opened.preprocessing == VARIANT.preprocessing
        assert opened.names == tuple(f"class {i}" for i in range(10))
        assert opened.synthetic
        assert set(opened.hashes) - set(opened.files) == {"assets.extra/manifest.json", "assets.extra/README.md"}
        model = saved_model.load_model(opened.folder)
        assert model(np.zeros((1, 48, 48, 3), np.float32)).shape == (1, 10)


def test_what_a_tarball_was_unpacked_to_is_removed_with_the_model(published):
    opened = open_model(str(published.tarball))
    folder = opened.folder
    assert folder.is_dir()
    del opened
    assert not folder.exists()


def test_address_is_fetched_by_tf_hub(published, tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=published.tarball.parent)
    handler.log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        assert open_model(address + published.tarball.name).name == "convmixer_tiny_classification_synthetic"
        with pytest.raises(PackagingError, match=r"could not be fetched.*Check the address"):
            open_model(address + "absent.tar.gz")
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_there_says_what_is_and_what_to_do(published, tmp_path):
    with pytest.raises(ParameterError, match=r"no such file or folder\. Convert one first"):
        open_model(str(tmp_path / "absent.tar.gz"))
    with pytest.raises(ParameterError, match=r"In .* there is: convmixer_tiny_classification_synthetic\.tar\.gz"):
        open_model(str(published.tarball.parent / "convmixer_tiny_classification.tar.gz"))
    with pytest.raises(ParameterError, match=r"holds no saved_model\.pb"):
        open_model(str(published.tarball.parent))


def changed(published, tmp_path, change):
    folder = extract_tarball(published.tarball, tmp_path / "model")
    change(folder)
    return write_tarball(folder, tmp_path / "changed.tar.gz")


def edit(folder: Path, **fields):
    path = folder / "assets.extra" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "assets.extra" / "manifest.json").unlink(), r"manifest\.json is missing"),
        (lambda folder: (folder / "assets.extra" / "manifest.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "assets.extra" / "manifest.json").write_text("[]"), "holds no manifest"),
        (lambda folder: edit(folder, weights="stolen"), "'weights'"),
        (lambda folder: (folder / "saved_model.pb").write_bytes(b"another"), r"saved_model\.pb is not the file"),
        (
            lambda folder: (folder / "assets.extra" / "labels.tsv").write_text("n0\ta\n"),
            r"labels\.tsv is not in the manifest",
        ),
    ],
)
def test_a_changed_artefact_is_refused_by_name(published, tmp_path, change, message):
    with pytest.raises(PackagingError, match=message):
        open_model(str(changed(published, tmp_path, change)))


def test_a_file_that_is_no_tarball_is_refused(tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(PackagingError, match=r"model\.tar\.gz.*Expected a complete \.tar\.gz"):
        open_model(str(tmp_path / "model.tar.gz"))


def test_the_same_artefact_twice_is_refused(published):
    with pytest.raises(ParameterError, match="was named already"):
        open_models([str(published.folder), str(published.tarball)])
