"""Artefacts for images of one channel, which take photographs, and of ten, which take arrays alone: what users do."""

import json
from unittest.mock import patch

import labelled
import numpy as np
import own_models
import pytest
import tensorflow as tf
from PIL import Image

from utils.artefact.opening import _interface, open_model
from utils.errors import PackagingError, ParameterError
from utils.evaluate import command as evaluation
from utils.export import saved_model
from utils.export.signatures import WARMUP, compare_signatures, image_signatures, signature_outputs
from utils.images.photographs import pillow_preprocess, sample_files, sample_photographs
from utils.notebook.classification import Classification
from utils.predict.model import load_model
from utils.smaller.command import make_smaller
from utils.training import batches
from utils.training.datasets import GENTLE
from utils.training.fine_tuning import FineTuning
from utils.training.model import open_extractor
from utils.training.settings import TrainingSettings
from utils.verify.command import main as verify

GREY, TEN = own_models.own("convmixer", 1), own_models.own("convmixer", 10)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    return own_models.published(tmp_path_factory.mktemp("grey"), GREY)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    return own_models.published(tmp_path_factory.mktemp("ten"), TEN)


@pytest.fixture(scope="module")
def grey_extractor(tmp_path_factory):
    return own_models.published(tmp_path_factory.mktemp("grey_fe"), GREY, "fe")


def test_a_grey_model_takes_photographs(grey):
    opened = open_model(str(grey.tarball))
    assert opened.architecture == GREY.architecture
    model = saved_model.load_model(opened.folder)
    normalised = {title: pillow_preprocess(each, GREY.preprocessing) for title, each in sample_photographs().items()}
    function = saved_model.as_function(model)
    pixels, rows = compare_signatures(model, function, GREY.preprocessing, normalised, "logits", 1e-5)
    assert pixels.passed
    assert all(row.passed for row in rows)
    expected = function(np.stack(list(normalised.values())))
    for name, found in signature_outputs(model, sample_files(), "logits").items():
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-2, err_msg=name)
    assert opened.manifest["signatures"]["serving_image"]["inputs"]["images"]["shape"] == [None, None, None, 3]
    assert verify([str(grey.tarball)]) == 0


def test_a_model_of_ten_channels_has_no_image_signatures_and_no_request_of_them(ten):
    assert image_signatures(TEN.preprocessing) is None
    opened = open_model(str(ten.tarball))
    assert opened.architecture == TEN.architecture
    assert list(opened.manifest["signatures"]) == ["serving_default"]
    requests = (opened.folder / WARMUP).read_bytes()
    assert b"serving_default" in requests
    assert b"serving_image" not in requests
    assert verify([str(ten.tarball)]) == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda model: Classification(model, "chelsea", 3, "out").open(),
        lambda model: load_model(model),
        lambda model: open_extractor(model.replace("classification", "fe"), 0),
    ],
    ids=["classification", "evaluation", "fine-tuning"],
)
def test_who_wants_photographs_for_a_model_of_ten_channels_is_told(ten, tmp_path_factory, use):
    if not (ten.folder.parent / "own_fe").exists():
        own_models.published(ten.folder.parent, TEN, "fe", "plain")
    with pytest.raises(ParameterError, match=r"own_\w+ takes images of 10 channels, and photographs have 1 .* or 3"):
        use(str(ten.folder))


def test_signatures_of_other_channels_than_the_preprocessing_are_refused(grey):
    manifest = json.loads(grey.manifest.read_text())
    assert _interface(manifest, 1) == ("logits", 7)
    with pytest.raises(PackagingError, match=r"expected inputs \[B, height, width, 3\]"):
        _interface(manifest, 3)


def test_a_grey_classifier_is_evaluated_on_photographs(grey, tmp_path):
    data = labelled.folder_of(tmp_path / "data", {str(i): 2 for i in range(3)})
    found = []
    for preprocessing in ("pillow", "graph"):
        path = tmp_path / f"{preprocessing}.json"
        options = ["--data", str(data), "--output", str(path), "--preprocessing", preprocessing]
        assert evaluation.main(["--model", str(grey.folder), *options]) == 0
        found.append(json.loads(path.read_text())["figures"]["model"])
    assert found[0] == found[1]


def test_a_grey_classifier_classifies_a_photograph(grey, tmp_path):
    run = Classification(str(grey.folder), "chelsea", 3, str(tmp_path))
    run.open()
    run.look()
    assert run.batch(run.saved_model).shape == (1, 32, 32, 1)
    run.classify()
    (result,) = json.loads((tmp_path / "classification.json").read_text())["models"].values()
    assert len(result["best"]) == 3


def test_training_images_are_made_grey_and_shown_as_rgb():
    images = labelled.coloured_images()
    found = next(iter(batches.validation_batches(images, GREY.preprocessing, 8)))[0].numpy()
    pixels = [images.validation.read(i) for i in range(8)]
    expected = np.stack([pillow_preprocess(Image.fromarray(each), GREY.preprocessing) for each in pixels])
    np.testing.assert_allclose(found, expected, atol=0.05)
    orange = np.full((40, 50, 3), (250, 120, 10), np.uint8)
    augmented = batches.augment(tf.constant(orange), GENTLE, GREY.preprocessing, tf.constant([1, 2]))
    flat = (np.asarray(Image.fromarray(orange).convert("L"))[0, 0] - 110.0) / 55
    np.testing.assert_allclose(augmented, np.full((32, 32, 1), flat), atol=1e-6)
    shown, _ = batches.shown_examples(images, GREY.preprocessing, 6, 0, True)
    assert shown.shape == (6, 32, 32, 3)
    assert 0 <= shown.min() < shown.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["tf_keras", "keras_3"])
def test_a_grey_extractor_is_fine_tuned(grey_extractor, tmp_path, keras):
    values = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "train": "all"}
    settings = TrainingSettings(str(grey_extractor.folder), "digits", **values, output_dir=str(tmp_path), seed=0,
                                keras=keras)  # fmt: skip
    run = FineTuning(settings.checked())
    run.open()
    with patch("utils.training.fine_tuning.load_dataset", return_value=labelled.coloured_images()):
        run.read()
    run.learning.build()
    run.learning.fit_head()
    run.learning.train()
    run.save()
    assert run.compare().passed
    published = run.publish()
    assert open_model(str(published.folder)).preprocessing == GREY.preprocessing
    assert verify([str(published.tarball)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite-float32", "tflite-int8"])
@pytest.mark.parametrize(
    ("variant", "operations"),
    [
        (GREY, "xla"),
        (own_models.own("mixer", 10), "plain"),
    ],
    ids=["grey convmixer", "mixer of ten"],
)
def test_tflite_files_are_made_and_verified(tmp_path, variant, operations, kind):
    path = make_smaller(own_models.published(tmp_path, variant, operations=operations).tarball, kind)
    assert verify([str(path)]) == 0
    operators = json.loads(path.with_name(f"{path.name}.json").read_text())["operators"]
    assert ("GELU" in operators) == (variant.architecture.activation == "gelu")
    assert not {"ERF", "TANH"} & set(operators)
