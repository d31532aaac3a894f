"""The REST client: its JSON goes through the signature as TensorFlow Serving sends it, by a server on this machine."""

import contextlib

import numpy as np
import pytest
import tiny
from hypothesis import given, settings, strategies as st
from server import Server, respond, serving

from utils.export import saved_model
from utils.export.signatures import image_signatures
from utils.families.variants import get_variant
from utils.images.photographs import pillow_preprocess, sample_files, sample_photographs
from utils.serving_client import ServingError, describe, main, predict

PREPROCESSING = get_variant("convmixer_tiny").preprocessing


@pytest.fixture(scope="module", params=tiny.OUTPUTS)
def served(request, tmp_path_factory):
    """(output, model, address of a server)."""
    folder = tmp_path_factory.mktemp("served") / "1"
    exported = tiny.exported("convmixer_tiny", request.param, 48)
    model = saved_model.load_model(saved_model.save_model(exported, folder, image_signatures(PREPROCESSING)))
    server = Server()
    server.answers["/v1/models/tiny:predict"] = serving(model)
    yield tiny.OUTPUTS[request.param], model, server.url
    server.http.shutdown()
    server.http.server_close()


def test_files_of_different_sizes_in_one_request_give_what_the_model_gives(served):
    output, model, address = served
    batch = np.stack([pillow_preprocess(image, PREPROCESSING) for image in sample_photographs().values()])
    expected = model(batch).numpy()
    answers = predict(address, "tiny", list(sample_files().values()))
    found = [answer["logits"] for answer in answers] if output == "logits" else answers
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3)  # a level here and there: test_signatures.py
    if output == "logits":
        assert [np.argmax(answer["probabilities"]) for answer in answers] == expected.argmax(axis=1).tolist()


def test_the_command_prints_a_line_for_each_file(served, tmp_path, capsys):
    output, _, address = served
    paths = [tmp_path / f"{name}.jpg" for name in sample_files()]
    for path, content in zip(paths, sample_files().values(), strict=True):
        path.write_bytes(content)
    assert main([address, "tiny", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in paths]
    assert all(("probability" in line) if output == "logits" else line.endswith(" 32 features") for line in lines)


def test_a_refusal_and_a_silent_server_are_errors_in_the_server_s_words(served, tmp_path, capsys):
    with pytest.raises(ServingError, match=r"refused the request \(HTTP 404\): Not Found"):
        predict(served[2], "other", [b""])
    (tmp_path / "a.png").write_bytes(b"x")
    for path in (tmp_path, tmp_path / "a.png"):
        assert main(["http://127.0.0.1:9", "tiny", str(path)]) == 1
    assert "Is TensorFlow Serving running there?" in capsys.readouterr().err


ODD = [
    *(b"", b"[]", b"null", b"1", b"{}", b'{"predictions": null}', b'{"predictions": {}}', b'{"predictions": []}'),
    *(b'{"predictions": [1]}', b'{"predictions": [[]]}', b'{"predictions": ["a"]}', b'{"predictions": [{}]}'),
    *(b'{"predictions": [{"probabilities": 1}]}', b'{"predictions": [{"probabilities": []}]}'),
    *(b'{"predictions": [{"probabilities": [null]}]}', b'{"predictions": [[NaN]]}', b'{"predictions": [[1], [2]]}'),
    b'{"predictions": [{"probabilities": [1' + b"0" * 400 + b"]}]}",
    *(b"[" * 100_000, b"\xff\xfe", b'{"predictions": [["\\ud800"]]}'),
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """(server, arguments of the command)."""
    server, file = Server(), tmp_path_factory.mktemp("odd") / "a.png"
    file.write_bytes(b"x")
    yield server, [server.url, "tiny", str(file)]
    server.http.shutdown()
    server.http.server_close()


def fails(odd, capsys, answer):
    server, arguments = odd
    server.answers["/v1/models/tiny:predict"] = answer
    assert main(arguments) == 1
    found = capsys.readouterr()
    assert found.err.startswith("error: ")
    assert found.err.strip().isprintable()
    assert found.out == ""


@pytest.mark.parametrize("body", ODD, ids=lambda body: repr(body[:40]))
def test_an_answer_without_predictions_is_an_error(odd, capsys, body):
    fails(odd, capsys, lambda handler: respond(handler, body))


def test_a_broken_answer_or_one_with_escapes_is_an_error_in_one_line(odd, capsys):
    fails(odd, capsys, lambda handler: respond(handler, b"{", length=100))
    fails(odd, capsys, lambda handler: handler.wfile.write(b"SSH-2.0\r\n"))
    fails(odd, capsys, lambda handler: respond(handler, b"\x1b[2J\nerror", status=500))
    fails(odd, capsys, lambda handler: respond(handler, b"", status=302, Location="http://[::1"))
    for address in ("nonsense", "http://[::1", "http://127.0.0.1:x", "ftp://a b"):
        assert main([address, *odd[1][1:]]) == 1
        assert capsys.readouterr().err.startswith("error: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["probabilities", "a"]), inner),
    max_leaves=8,
)


@pytest.mark.slow
@given(JSON)
@settings(max_examples=500, deadline=None, derandomize=True, database=None)
def test_whatever_stands_for_a_prediction_is_described_or_an_error(answer):
    with contextlib.suppress(ServingError):
        assert describe(answer)
