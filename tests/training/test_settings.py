"""Every parameter of the fine-tuning notebook is checked, and the error names it, before anything is loaded."""

import pytest

from utils.errors import ParameterError
from utils.training.settings import TrainingSettings, check_training

GOOD = {
    "model": "exports/convmixer_768_32_fe",
    "dataset": "digits",
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.03,
    "train_backbone": True,
    "image_size": 0,
    "output_dir": "exports",
    "seed": 0,
}


def check(**changed):
    return check_training(TrainingSettings(**GOOD | changed))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": ""}, "model is empty"),
        ({"model": None}, "model is None"),
        ({"dataset": "no_such_folder"}, "dataset is 'no_such_folder', which is no folder"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1'"),
        ({"train_backbone": "yes"}, "train_backbone is 'yes'"),
        ({"image_size": -1}, "image_size is -1"),
        ({"output_dir": " "}, "output_dir is empty"),
        ({"output_dir": __file__}, "which is a file"),
        ({"seed": -1}, "seed is -1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of sgd, adamw"),
        ({"label_smoothing": 1}, "label_smoothing is 1"),
        ({"clip_norm": -1}, "clip_norm is -1"),
        ({"corrupt_images": "ignore"}, "corrupt_images is 'ignore'"),
        ({"keras": "2"}, "keras is '2'"),
        ({"keras": "tf_keras", "model": "a.keras"}, "keras is 'tf_keras', which loads no .keras file"),
        ({"precision": "float16"}, "precision is 'float16'"),
    ],
)
def test_an_impossible_value_is_named(wrong, said):
    with pytest.raises(ParameterError, match=said):
        check(**wrong)


@pytest.mark.parametrize(
    ("legacy", "expected"), [(None, "tf_keras"), ("1", "tf_keras"), ("0", "keras_3"), ("False", "keras_3")]
)
def test_the_environment_chooses_the_keras_unless_the_parameter_does(monkeypatch, legacy, expected):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    if legacy is not None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", legacy)
    assert check().keras == expected
    assert check(keras="tf_keras").keras == "tf_keras"


def test_a_run_is_another_one_when_anything_that_changes_its_steps_does():
    digest = check().digest(data="x")
    assert digest == check(output_dir="elsewhere").digest(data="x")
    assert check(clip_norm=1).digest(data="x") == digest  # 1 and 1.0 are one setting
    others = [{"learning_rate": 0.04}, {"seed": 1}, {"epochs": 4}, {"train_backbone": False}, {"keras": "keras_3"}]
    assert digest not in [check(**other).digest(data="x") for other in others]
    assert digest != check().digest(data="y")


def test_another_backend_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ParameterError, match="KERAS_BACKEND is 'jax' here; expected 'tensorflow'"):
        check(keras="keras_3")
    assert check(keras="tf_keras").keras == "tf_keras"


def test_a_keras_file_is_trained_by_keras_3(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    assert check(model="exports/a.keras").keras == "keras_3"
