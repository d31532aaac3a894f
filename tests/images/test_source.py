"""Where a photograph may come from, and what is said when it cannot."""

import sys
import types

import pytest
from server import respond, running

from utils.errors import ParameterError
from utils.images import source
from utils.images.photographs import load_image, sample_files
from utils.images.source import read_image_file

COFFEE = sample_files()["coffee"]


@pytest.fixture
def address(monkeypatch):
    with running(monkeypatch, 1) as (server,):
        for path in ("/coffee.jpg", "/coffee.jpg?size=1"):
            server.answers[path] = lambda handler: respond(handler, COFFEE)
        yield server.url


def test_sample_path_and_url_give_title_and_file(tmp_path, address):
    (tmp_path / "mine.jpg").write_bytes(COFFEE)
    for image, title in (
        ("coffee", "coffee"),
        (str(tmp_path / "mine.jpg"), "mine"),
        (f"{address}/coffee.jpg?size=1", "coffee.jpg"),
    ):
        found, file = read_image_file(image)
        assert found == title
        assert load_image(file).size == (600, 400)


@pytest.mark.parametrize("image", ["absent.jpg", ".", "upload", "ftp://127.0.0.1/x.jpg", "http://127.0.0.1:9/x.jpg"])
def test_what_cannot_be_had_is_an_error_that_names_it(image):
    with pytest.raises(ParameterError, match=image.replace(".", r"\.")):
        read_image_file(image)


def test_an_absent_page_is_an_error_and_an_endless_answer_is_cut_off(address, monkeypatch):
    with pytest.raises(ParameterError, match=r"nothing\.jpg.*404"):
        read_image_file(f"{address}/nothing.jpg")
    monkeypatch.setattr(source, "MAX_BYTES", 1000)
    with pytest.raises(ParameterError, match=r"coffee\.jpg.*more than"):
        read_image_file(f"{address}/coffee.jpg")


def test_upload_in_colab_takes_one_file(monkeypatch):
    chosen = {"photo.jpg": COFFEE}
    colab = types.SimpleNamespace(files=types.SimpleNamespace(upload=lambda: chosen))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    assert read_image_file("upload")[0] == "photo"
    chosen["another.jpg"] = COFFEE
    with pytest.raises(ParameterError, match="2 files"):
        read_image_file("upload")
