"""The extractor to fine-tune: opened from folder, tarball and web server; anything else is refused with its reason."""

import functools
import json
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import extractors
import pytest

from utils.errors import PackagingError, ParameterError
from utils.training.extractor import open_extractor


@pytest.fixture
def copied(tmp_path):
    """A copy of the published folder, to be spoilt."""
    return shutil.copytree(extractors.published("convmixer").folder, tmp_path / "copy")


def test_folder_and_tarball_give_the_same_extractor():
    published = extractors.published("convmixer")
    from_folder = open_extractor(str(published.folder), 0)
    from_tarball = open_extractor(str(published.tarball), 48)
    assert from_folder.files == from_tarball.files
    assert from_folder.preprocessing == from_tarball.preprocessing
    assert (from_folder.preprocessing.crop, from_folder.variant.name) == (48, "convmixer_tiny")
    assert from_folder.weights == "custom"
    assert (from_tarball.folder / "saved_model.pb").is_file()


class Quiet(SimpleHTTPRequestHandler):
    def do_GET(self):
        self.path = self.path.partition("?")[0]  # TF Hub asks for `?tf-hub-format=compressed`
        super().do_GET()

    def log_message(self, *_):
        pass


def test_tf_hub_handle_is_fetched_from_a_web_server(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    tarball = extractors.published("convmixer").tarball
    handler = functools.partial(Quiet, directory=str(tarball.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handle = f"http://127.0.0.1:{server.server_port}/{tarball.name}"
        found = open_extractor(handle, 0)
        with pytest.raises(PackagingError, match=r"_nothing.* could not be fetched"):
            open_extractor(handle.replace("_fe", "_nothing"), 0)
        server.shutdown()
    assert found.files == open_extractor(str(tarball), 0).files


def test_a_classifier_is_refused_with_what_to_pass_instead():
    with pytest.raises(ParameterError, match=r"is a classifier .* pass convmixer_tiny_fe"):
        open_extractor(str(extractors.published("classifier").folder), 0)


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such file or folder"), (".", r"holds no saved_model.pb")])
def test_what_is_no_model_is_refused(tmp_path, name, said):
    with pytest.raises(ParameterError, match=said):
        open_extractor(str(tmp_path / name), 0)


def test_a_file_that_is_no_tarball_is_refused(tmp_path):
    (tmp_path / "model.tar.gz").write_bytes(b"not a tarball")
    with pytest.raises(PackagingError, match=r"model\.tar\.gz"):
        open_extractor(str(tmp_path / "model.tar.gz"), 0)


def test_a_model_without_manifest_is_refused(copied):
    (copied / "assets.extra" / "manifest.json").unlink()
    with pytest.raises(PackagingError, match=r"assets\.extra/manifest\.json is missing"):
        open_extractor(str(copied), 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no manifest"),
        ("{}", "the field 'name' is missing"),
        ("no preprocessing", "no sound preprocessing. KeyError: 'preprocessing'"),
        ("no list of numbers", "no sound preprocessing. TypeError: 'r'"),
    ],
    ids=["cut", "deep", "list", "empty", "no preprocessing", "no numbers"],
)
def test_a_damaged_manifest_is_refused(copied, content, said):
    path = copied / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    if content == "no preprocessing":
        del manifest["model"]["preprocessing"]
    elif content == "no list of numbers":
        manifest["model"]["preprocessing"]["mean"] = "red"
    path.write_text(json.dumps(manifest) if content.startswith("no ") else content)
    with pytest.raises(PackagingError, match=said):
        open_extractor(str(copied), 0)


def test_changed_weights_are_refused(copied):
    path = copied / "variables" / "variables.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(PackagingError, match=r"variables\.data-00000-of-00001 is not the file that was published"):
        open_extractor(str(copied), 0)


def test_another_size_is_refused_where_the_model_has_its_own():
    with pytest.raises(ParameterError, match="takes images of 48 pixels only"):
        open_extractor(str(extractors.published("xla").folder), 64)


def test_a_convmixer_for_any_size_is_trained_at_whole_patches():
    model = str(extractors.published("convmixer any size").folder)
    found = open_extractor(model, 64)
    assert (found.preprocessing.crop, found.preprocessing.resize) == (64, 67)
    with pytest.raises(ParameterError, match=r"not a multiple of convmixer_tiny's patch of 4 pixels\. Use 48 or 52"):
        open_extractor(model, 50)
