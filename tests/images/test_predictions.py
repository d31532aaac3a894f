"""The best classes, similarities and times; and the parameters of the classification notebook."""

import itertools
import json

import numpy as np
import pytest

from utils.errors import ParameterError
from utils.images import predictions
from utils.images.predictions import best, cosine_similarities, timed, write_json
from utils.settings import check_classification


def test_best_are_in_order_with_their_names():
    found = best(np.array([0.1, 0.6, 0.3]), ["a", "b", "c"], 2)
    assert found == [
        {"class": 1, "name": "b", "probability": 0.6},
        {"class": 2, "name": "c", "probability": 0.3},
    ]
    assert len(best(np.array([0.4, 0.6]), ["a", "b"], 5)) == 2


def test_cosine_similarity_is_that_of_directions():
    found = cosine_similarities(np.array([[1, 0], [5, 0], [0, 2], [-1, 0], [0, 0]], np.float32))
    np.testing.assert_allclose(found[0], [1, 1, 0, -1, 0], atol=1e-12)
    assert np.isfinite(found).all()


def test_timed_gives_the_value_and_the_median_in_milliseconds_without_the_first_call(monkeypatch):
    calls, clock = [], itertools.chain([0, 3, 10, 11, 20, 22], itertools.count(30, 2))
    monkeypatch.setattr(predictions.time, "perf_counter", lambda: next(clock))

    def function(inputs):
        calls.append(inputs)
        return inputs * 2

    value, milliseconds = timed(function, np.ones(2))
    assert value.tolist() == [2, 2]
    assert milliseconds == 2000  # of 3, 1, 2, 2 and 2 seconds
    assert len(calls) == 6


def test_json_is_written_whole_into_a_new_folder(tmp_path):
    path = write_json({"a": "é"}, tmp_path / "new", "x")
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    with pytest.raises(TypeError):
        write_json({"a": object()}, tmp_path / "new", "y")
    assert [each.name for each in path.parent.iterdir()] == ["x.json"]


def test_models_are_separated_by_commas():
    assert check_classification(" a , b/c.tar.gz ", "chelsea", 5, "out") == ["a", "b/c.tar.gz"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": ""}, "model is ''"),
        ({"model": "a,,b"}, "model is 'a,,b'"),
        ({"model": 3}, "model is 3"),
        ({"model": "a, a"}, "twice"),
        ({"image": " "}, "image is ' '"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": True}, "top_k is True"),
        ({"output_dir": ""}, "output_dir is empty"),
    ],
)
def test_impossible_parameters_are_errors_that_name_them(wrong, message):
    good = {"model": "a", "image": "chelsea", "top_k": 5, "output_dir": "out"}
    with pytest.raises(ParameterError, match=message):
        check_classification(**{**good, **wrong})
