"""The table of clients: each is run as users run it, and what is wrong is found; without network, npm or Node."""

import sys
from pathlib import Path

import artefacts
import numpy as np
import pytest

from benchmarks import clients, environments
from benchmarks.clients_artefact import Artefact
from utils import serving_client
from utils.artefact.opening import open_model
from utils.verify.numbers import golden_of


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    tarball = artefacts.publish(folder).tarball
    return Artefact(open_model(str(tarball)), tarball, folder, "http://server")


def test_what_is_off_is_said_to_be(artefact):
    golden = golden_of(artefact.opened.folder).outputs
    assert artefact.judged(golden.tolist()).startswith("yes, logits 0.0e+00 off")
    assert artefact.judged(golden * 1.001).startswith("no, logits 1.0e-03 off")
    best = artefact.logits(artefact.prepared()).argmax(axis=1)
    assert artefact.named(best) == "yes, 3 of 3 photographs named alike"
    assert artefact.named([*best[:2], best[2] + 1]) == "no, 2 of 3 photographs named alike"


@pytest.mark.slow
def test_saved_model_cli_runs_the_line_of_the_page(artefact):
    assert clients.saved_model_cli(artefact)["serving_default"]().startswith("yes")


@pytest.mark.slow
def test_litert_runs_in_a_process_that_has_the_file_alone(artefact, monkeypatch, tmp_path):
    monkeypatch.setattr(environments, "interpreter", lambda *_: Path(sys.executable))
    from utils.smaller.making import make_lite

    monkeypatch.setitem(artefact.__dict__, "lite", make_lite(artefact.opened, "float32", tmp_path))
    assert clients.litert(artefact)["float32 .tflite"]().startswith("yes")


def test_the_converter_of_tfjs_runs_without_onednn_as_on_the_page(artefact, monkeypatch):
    """With it, it writes a product with an exact GELU in it, and TF.js stops there."""
    settings = []
    monkeypatch.setattr(environments, "interpreter", lambda *_: Path("python"))
    monkeypatch.setattr(environments, "output", lambda *_, **variables: settings.append(variables))
    clients.tfjs(artefact)["serving_image"]()
    assert settings == [{"TF_ENABLE_ONEDNN_OPTS": 0}]
    page = Path(__file__).parents[2] / "docs" / "clients.md"
    assert "\nTF_ENABLE_ONEDNN_OPTS=0 tensorflowjs_converter " in page.read_text(encoding="utf-8")


def test_a_client_s_own_words_stand_in_the_table_and_are_a_failure_unless_known():
    def broken():
        environments.output(sys.executable, "-c", "raise ValueError('Unsupported Ops: DecodeJpeg')")

    said = clients._tried(broken)
    assert said.startswith("no: ")
    assert said.endswith("ValueError: Unsupported Ops: DecodeJpeg")
    sample = {"client": "TF.js", "artefact": "a", "what": "serving_image", "runs": said}
    assert clients.failures([sample]) == []
    assert clients.failures([sample | {"runs": "no: unrecognized arguments"}]) != []
    assert clients.failures([sample | {"what": "serving_default, cpu"}]) != []
    assert clients.failures([sample | {"client": "MediaPipe"}]) != []
    assert "| TF.js | a | serving_image | no: " in clients.table([sample])


def test_without_npm_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MIXERS_CACHE", str(tmp_path))
    assert clients._tried(lambda: environments.node_modules("none", clients.NODE)) == "no: npm is not installed"


@pytest.mark.parametrize("fault", [1, 1.001])
def test_a_server_s_numbers_are_compared(artefact, monkeypatch, fault):
    outputs = golden_of(artefact.opened.folder).outputs

    def post(server, model, signature, instances):
        assert (server, model, signature) == ("http://server", "convmixer_tiny_classification", "serving_default")
        assert np.shape(instances) == (len(outputs), 48, 48, 3)
        return (outputs * fault).tolist()

    monkeypatch.setattr(serving_client, "post", post)
    found = clients.tensorflow_serving(artefact)["serving_default"]()
    assert found.startswith("yes" if fault == 1 else "no")
