"""Labelled images to train on, and a training run as the notebook does it."""

import extractors
import numpy as np
from PIL import Image

from utils.training import fit, keras_worlds
from utils.training.datasets import GENTLE, LabelledImages, Split
from utils.training.extractor import open_extractor
from utils.training.settings import TrainingSettings, check_training

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
    return LabelledImages("colours", ("red", "green", "blue"), *parts, GENTLE, (), "fingerprint")


class Run:
    """What the notebook does, up to the trained model; `changed` are settings."""

    def __init__(self, kind, images, output_dir, float16=False, **changed):
        model, self.kind = str(extractors.published(kind).folder), kind
        values = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.02, "train_backbone": True, "image_size": 0}
        values |= {"output_dir": str(output_dir), "seed": 1, "keras": "tf_keras"} | changed
        self.settings = check_training(TrainingSettings(model, "digits", **values))
        self.extractor = open_extractor(model, 0, self.settings.keras)
        steps = len(images.train) // BATCH * self.settings.epochs
        self.trainable = keras_worlds.build(self.settings, self.extractor, 3, steps, float16)
        self.images = images
        self.before = self.trainable.values()[0]

    def train(self):
        self.state = fit.open_state(self.trainable, self.settings, "name", self.images, self.extractor.files)
        self.resumed = self.state.epochs_done
        preprocessing = self.extractor.preprocessing
        self.history = fit.train(self.trainable, self.settings, self.images, preprocessing, self.state)
        return self

    def moved(self):
        """Names of the backbone's variables that are not what they were."""
        after = self.trainable.values()[0]
        return {name for name, value in after.items() if not np.array_equal(value, self.before[name])}
