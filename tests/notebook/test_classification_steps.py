"""What the classification notebook computes: the best classes, similarities and times; and its parameters."""

import itertools

import numpy as np
import pytest

from utils.errors import ParameterError
from utils.notebook import classification


def test_best_are_in_order_with_their_names():
    found = classification.best(np.array([0.1, 0.6, 0.3]), ["a", "b", "c"], 2)
    assert found == [
        {"class": 1, "name": "b", "probability": 0.6},
        {"class": 2, "name": "c", "probability": 0.3},
    ]


def test_cosine_similarity_is_that_of_directions():
    vectors = np.array([[1, 0], [5, 0], [0, 2], [-1, 0], [0, 0]], np.float32)
    found = classification.cosine_similarities(vectors)
    np.testing.assert_allclose(found[0], [1, 1, 0, -1, 0], atol=1e-12)
    assert np.isfinite(found).all()


def test_the_time_is_the_median_without_the_first_call(monkeypatch):
    clock = itertools.chain([0, 3, 10, 11, 20, 22], itertools.count(30, 2))
    monkeypatch.setattr(classification.time, "perf_counter", lambda: next(clock))
    value, milliseconds = classification.timed(lambda inputs: inputs * 2, np.ones(2))
    assert value.tolist() == [2, 2]
    assert milliseconds == 2000  # of 3, 1, 2, 2 and 2 seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [("model", ""), ("model", "a,,b"), ("model", 3), ("image", " "), ("top_k", 0), ("top_k", True), ("output_dir", "")],
)
def test_impossible_parameters_are_errors_that_name_them(name, value):
    good = {"model": "a", "image": "chelsea", "top_k": 5, "output_dir": "out"}
    with pytest.raises(ParameterError, match=f"{name} is "):
        classification.Classification(**good | {name: value})
