"""Labelled images to train on, and a training run as the notebook does it."""

from unittest.mock import patch

import extractors
import numpy as np
from PIL import Image

from utils.export import saved_model
from utils.training.datasets import GENTLE, LabelledImages, Split
from utils.training.fine_tuning import FineTuning
from utils.training.settings import TrainingSettings

EPOCHS, BATCH = 4, 4


def folder_of(root, classes):
    """Images of 20 x 30 pixels, by class: {"name": count}."""
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(root / name / f"{index:03}.png")
    return root


def store_tfds(folder, name, version, classes, splits):
    """A data set in the format of TensorFlow Datasets; splits: lists of (image or its path, class) by name."""
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": tfds.features.ClassLabel(names=classes)}
    examples = {
        split: [(key, {"image": image, "label": label}) for key, (image, label) in enumerate(pairs)]
        for split, pairs in splits.items()
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict(features),
        split_datasets=examples,
        data_dir=folder,
        disable_shuffling=True,
    )


def coloured_images():
    """24 noisy images of three colours."""
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    pixels = np.clip(rng.normal(90, 40, (24, 50, 50, 3)) + 60 * np.eye(3)[labels, None, None], 0, 255).astype(np.uint8)
    parts = (Split(pixels[part].__getitem__, labels[part]) for part in (slice(16), slice(16, 24)))
    return LabelledImages("colours", ("red", "green", "blue"), *parts, GENTLE, "fingerprint")


def built(kind, images, output_dir, from_head=False, **changed):
    """What the notebook does up to the model to train, with `images` for its data set; `changed` are settings.

    from_head: train everything from the head that was fitted. Otherwise from one of zeros, which any epoch surpasses:
    the head for easy images is perfect.
    """
    values = {"train": "all", "batch_size": BATCH, "output_dir": str(output_dir), "seed": 1, "keras": "tf_keras"}
    if changed.get("train") != "head":
        values |= {"epochs": EPOCHS, "learning_rate": 0.02}
    settings = TrainingSettings(str(extractors.published(kind).folder), "digits", **values | changed)
    run = FineTuning(settings.checked())
    run.open()
    with patch("utils.training.fine_tuning.load_dataset", return_value=images):
        run.read()
    run.learning.build()
    run.learning.fit_head()
    if run.learning.whole and not from_head and not run.learning.state.epochs_done:
        head = run.learning.trainable.head
        head.set_weights([0 * array for array in head.get_weights()])
        run.learning.state.begin({"val_accuracy": -1, "val_loss": 0})
    return run


def moved(run):
    """Names of the extractor's variables that are not what they were."""
    before = saved_model.Candidate(saved_model.load_model(run.extractor.folder)).variables()
    after = run.learning.trainable.arrays()
    return {name for name, value in before.items() if not np.array_equal(after[name], value)}
