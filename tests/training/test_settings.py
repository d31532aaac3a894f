"""Every parameter of the fine-tuning notebook is checked, and the error names it, before anything is loaded."""

import pytest

from utils.errors import ParameterError
from utils.training.settings import TrainingSettings

GOOD = {
    "model": "exports/convmixer_768_32_fe",
    "dataset": "digits",
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.03,
    "train": "all",
    "image_size": 0,
    "output_dir": "exports",
    "seed": 0,
}


def check(**changed):
    return TrainingSettings(**GOOD | changed).checked()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("dataset", "no_such_folder"),
        ("epochs", 0),
        ("batch_size", True),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1"),
        ("epochs", "5"),
        ("learning_rate", -1),
        ("train", "foo"),
        ("batch_norm", "layer"),
        ("class_weight", True),
        ("image_size", -1),
        ("output_dir", __file__),
        ("seed", -1),
        ("optimizer", "adam"),
        ("label_smoothing", 1),
        ("clip_norm", -1),
        ("corrupt_images", "ignore"),
        ("keras", "2"),
        ("precision", "float16"),
        ("overwrite", 1),
        ("name", "a name"),
        ("name", "mine_synthetic"),
    ],
)
def test_an_impossible_value_is_named(name, value):
    with pytest.raises(ParameterError, match=f"{name} is "):
        check(**{name: value})


@pytest.mark.parametrize("train", ["auto", "head", "all"])
@pytest.mark.parametrize("name", ["epochs", "learning_rate"])
def test_zero_epochs_and_a_rate_of_zero_are_refused_in_every_mode(train, name):
    with pytest.raises(ParameterError, match=f'{name} is 0; expected "auto" or '):
        check(train=train, **{name: 0})
    assert getattr(check(train=train, **{name: "auto"}), name) == "auto"


def test_a_parameter_of_an_earlier_version_is_refused_with_its_new_name():
    with pytest.raises(ParameterError, match=r'train_backbone is no parameter any more.*train = "all"'):
        TrainingSettings(**GOOD).checked({"train_backbone": True, "model": "x"})
    TrainingSettings(**GOOD).checked({"model": "x"})


@pytest.mark.parametrize(
    ("legacy", "expected"), [(None, "tf_keras"), ("1", "tf_keras"), ("0", "keras_3"), ("False", "keras_3")]
)
def test_the_environment_chooses_the_keras_unless_a_parameter_does(monkeypatch, legacy, expected):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    if legacy is not None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", legacy)
    assert check().keras == expected
    assert check(keras="tf_keras").keras == "tf_keras"
    assert check(model="exports/a.keras").keras == "keras_3"
    with pytest.raises(ParameterError, match="keras is 'tf_keras'"):
        check(model="exports/a.keras", keras="tf_keras")


def test_another_backend_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ParameterError, match="KERAS_BACKEND is 'jax' here"):
        check(keras="keras_3")
    assert check(keras="tf_keras").keras == "tf_keras"


def test_a_run_is_another_one_when_anything_that_changes_its_steps_does():
    digest = check().digest(data="x")
    assert digest == check(output_dir="elsewhere").digest(data="x")
    assert check(clip_norm=1).digest(data="x") == digest  # 1 and 1.0 are one setting
    others = [
        {"learning_rate": 0.04},
        {"seed": 1},
        {"epochs": 4},
        {"train": "head"},
        {"batch_norm": "batch"},
        {"keras": "keras_3"},
    ]
    assert digest not in [check(**other).digest(data="x") for other in others]
    assert digest != check().digest(data="y")
