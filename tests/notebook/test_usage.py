"""The lines that a notebook prints at its end run as they stand."""

import runpy

import extractors
import own_models
import pytest

from utils.notebook.usage import usage


def run(published, folder):
    (folder / "usage.py").write_text(usage(published))
    return runpy.run_path(str(folder / "usage.py"))


@pytest.mark.parametrize("kind", ["convmixer any size", "xla", "classifier"])
def test_it_calls_the_model(kind, tmp_path):
    found = run(extractors.published(kind), tmp_path)
    output = "logits" if kind == "classifier" else "features"
    assert found[output].shape == (1, 10 if kind == "classifier" else 32)
    assert found["inputs"].shape == (1, 48, 48, 3)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 2])
def test_photographs_only_where_they_are_taken(tmp_path, channels):
    published = own_models.published(tmp_path, own_models.own("convmixer", channels=channels))
    found = run(published, tmp_path)
    assert found["inputs"].shape == (1, 32, 32, channels)
    assert ("probabilities" in found) == (channels == 1)
