"""Features: computed once an image, mirrored where that is allowed, kept, and found again by what they are of."""

from dataclasses import replace

import numpy as np
import pytest
from labelled import built, coloured_images

from utils.errors import ConversionError
from utils.training import estimate
from utils.training.datasets import STANDARD
from utils.training.features import cache_file, features_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of images that may be mirrored."""
    images = replace(coloured_images(), augmentation=STANDARD)
    return built("convmixer", images, tmp_path_factory.mktemp("features"), train="head")


class Counting:
    """An extractor that counts images, whose features are easy to know: the mean of the left half, and of all."""

    def __init__(self, units=32):
        self.images, self.units = 0, units

    def __call__(self, pixels):
        self.images += len(pixels)
        left, whole = pixels[:, :, : pixels.shape[2] // 2].mean(axis=(1, 2, 3)), pixels.mean(axis=(1, 2, 3))
        return np.stack([left, whole] * (self.units // 2), axis=1)


def found(run, folder, extract, images=None, **changed):
    given = replace(run.extractor, **changed)
    return features_of(extract, given, images or run.images, folder, 5, estimate.Clock("CPU"))


def test_each_image_passes_once_and_a_mirrored_copy_once_more_and_the_next_run_reads_them(run, tmp_path):
    extract, again = Counting(), Counting()
    features = found(run, tmp_path, extract)
    assert extract.images == 2 * len(run.images.train) + len(run.images.validation)  # of 24: 1.67 passes
    assert features.train.shape == (2, 16, 32)
    left, whole = features.train[..., 0], features.train[..., 1]
    np.testing.assert_allclose(left[0] + left[1], whole[0] + whole[1], atol=1e-4)  # the other half, mirrored
    assert np.abs(left[0] - left[1]).max() > 1e-3
    read = found(run, tmp_path, again)
    assert again.images == 0
    np.testing.assert_array_equal(read.train, features.train)
    np.testing.assert_array_equal(read.validation, features.validation)


def test_what_must_not_be_mirrored_passes_once(run, tmp_path):
    extract = Counting()
    assert found(run, tmp_path, extract, coloured_images()).train.shape == (1, 16, 32)
    assert extract.images == 24


def test_the_whole_notebook_runs_the_model_once_an_image(run, monkeypatch):
    """But for the images that are compared at the end. The steps after the head read what is there."""
    model = run.learning.trainable.model
    for name in ("predict", "fit", "evaluate", "predict_on_batch"):
        monkeypatch.setattr(model, name, None)
    run.learning.train()
    assert run.learning.predict().shape == (8, 3)


def test_another_byte_of_an_image_or_of_the_model_or_another_preprocessing_is_another_file(run, tmp_path):
    images, extractor = run.images, run.extractor
    other_model = {**extractor.manifest, "files": {**extractor.files, "saved_model.pb": "0" * 64}}
    other_size = replace(extractor.preprocessing, crop=extractor.preprocessing.crop - 8)
    files = [
        cache_file(tmp_path, extractor, images),
        cache_file(tmp_path, extractor, replace(images, fingerprint="of other images")),
        cache_file(tmp_path, extractor, coloured_images()),  # not mirrored
        cache_file(tmp_path, replace(extractor, manifest=other_model), images),
        cache_file(tmp_path, replace(extractor, preprocessing=other_size), images),
    ]
    assert len(set(files)) == 5
    assert files[0] == cache_file(tmp_path, replace(extractor), replace(images))


@pytest.mark.parametrize("damage", [b"", b"PK damaged", "half", "other shape"])
def test_a_damaged_file_is_made_anew(run, tmp_path, damage):
    features = found(run, tmp_path, Counting())
    path = cache_file(tmp_path, run.extractor, run.images)
    if damage == "other shape":
        np.savez(path, train=features.train[:1], validation=features.validation)
    else:
        path.write_bytes(path.read_bytes()[:2000] if damage == "half" else damage)
    extract = Counting()
    np.testing.assert_array_equal(found(run, tmp_path, extract).train, features.train)
    assert extract.images == 40
    extract = Counting()
    found(run, tmp_path, extract)
    assert extract.images == 0


def test_a_stopped_run_leaves_no_file_and_one_that_cannot_be_written_is_said(run, tmp_path):
    class Stopped(Counting):
        def __call__(self, pixels):
            if self.images > 20:
                raise KeyboardInterrupt
            return super().__call__(pixels)

    with pytest.raises(KeyboardInterrupt):
        found(run, tmp_path, Stopped())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert "could not be kept" in found(run, tmp_path / "file" / "below", Counting()).remark


def test_features_that_are_no_numbers_are_refused(run, tmp_path):
    with pytest.raises(ConversionError, match="convmixer_tiny_fe gives features that are not finite"):
        found(run, tmp_path, lambda pixels: np.full((len(pixels), 32), np.nan, np.float32))
    assert list(tmp_path.iterdir()) == []


class Bar:
    def update(self, count):
        pass


@pytest.mark.parametrize(("total", "told"), [(100, []), (500, ["about 2 minutes", "GPU is faster"])])
def test_a_minute_or_more_is_told_with_the_rate_that_was_measured(monkeypatch, capsys, total, told):
    now = [0.0]
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    clock = estimate.Clock("CPU")
    clock.start(total)
    for _ in range(4):
        now[0] += 2.0 if now[0] else 100.0  # the first is traced
        clock.done(8, Bar())
    assert clock.rate == pytest.approx(4)
    shown = capsys.readouterr().out
    assert all(text in shown for text in told)
    assert shown.count("4.0 images a second, measured") == len(told[:1])


def test_time_in_words():
    words = [estimate.in_words(seconds) for seconds in (0.2, 40, 540, 9000)]
    assert words == ["1 seconds", "40 seconds", "9 minutes", "2.5 hours"]
