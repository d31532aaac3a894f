"""What a run does where its settings say "auto", and what it says of settings that it does not use."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from utils.artefact.opening import Pretrained
from utils.families import FAMILIES
from utils.training.datasets import LabelledImages
from utils.training.settings import TrainingSettings

# Settings that only the training of everything uses.
OF_ALL = ("epochs", "learning_rate", "batch_norm", "optimizer", "label_smoothing", "clip_norm", "precision")
# Random weights must change a lot. assets/tables/learning.md has what they learn at these rates, SGD's in full.
RANDOM_RATES, RANDOM_EPOCHS = {"sgd": 0.1, "adamw": 0.001}, 20
# AdamW's for pretrained weights: AutoGluon's medium_quality preset for images, and the batch that it is for.
ADAMW_RATE = (1e-4, 128)
# big_vision's transfer.py takes 500 steps for Pets and Flowers; others' recipes have 3 to 20 epochs.
STEPS, EPOCHS = 500, (3, 20)
UNEVEN = 1.5  # times as many images in the largest class as in the smallest


@dataclass(frozen=True)
class Plan:
    """Settings without "auto", and what to tell of them."""

    settings: TrainingSettings
    remarks: tuple[str, ...]

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of settings that this run does not use."""
        return OF_ALL if self.settings.train == "head" else ()


def decided(settings: TrainingSettings, extractor: Pretrained, images: LabelledImages, device: str) -> Plan:
    """The plan of a run.

    Args:
        settings: checked.
        extractor: what is trained.
        images: the data set.
        device: "CPU", "GPU" or "TPU".
    """
    random, remarks = extractor.weights == "synthetic", []
    train = settings.train
    if train == "auto":
        train = "head" if device == "CPU" else "all"
        remarks.append(f"train = auto: {'the head alone' if train == 'head' else 'everything'}, on a {device}.")
    if random and train == "head":
        remarks.append(
            "The backbone is random numbers, which a head alone makes little of. train = 'all' trains it, too."
        )
    batch = min(settings.batch_size, len(images.train))
    if batch < settings.batch_size:
        remarks.append(f"A batch has {batch} images instead of {settings.batch_size}: there are no more to train on.")
    plan = dataclasses.replace(settings, train=train, batch_size=batch)
    if train == "head":
        defaults = {field.name: field.default for field in dataclasses.fields(settings)}
        given = [f"{name} = {getattr(settings, name)}" for name in OF_ALL if getattr(settings, name) != defaults[name]]
        if given:
            remarks.append(f"Not used, since the head alone is fitted, by a solver: {', '.join(given)}.")
    else:
        if settings.learning_rate == "auto":
            plan = dataclasses.replace(plan, learning_rate=_rate(settings.optimizer, extractor, batch))
        if settings.epochs == "auto":
            few = np.clip(round(STEPS / (len(images.train) // batch)), *EPOCHS)
            plan = dataclasses.replace(plan, epochs=RANDOM_EPOCHS if random else int(few))
    return Plan(plan, (*remarks, *_of_classes(settings, images)))


def _rate(optimizer: str, extractor: Pretrained, batch: int) -> float:
    """The learning rate at its peak: by the square root of the batch, except for random weights.

    In proportion to the batch, the other common rule, digits were learned less well from pretrained weights; and a rate
    that is too high cannot do harm, since the better of head and everything is kept.
    """
    if extractor.weights == "synthetic":
        return RANDOM_RATES[optimizer]
    rate, of_batch = ADAMW_RATE if optimizer == "adamw" else FAMILIES[extractor.variant.family].sgd_rate
    return float(f"{rate * math.sqrt(batch / of_batch):.2g}")


def is_uneven(images: LabelledImages) -> bool:
    """Whether some class has so many more training images than another that plain accuracy misleads."""
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    return bool(counts.max() >= UNEVEN * counts.min())


def _of_classes(settings: TrainingSettings, images: LabelledImages) -> list[str]:
    if not is_uneven(images) or settings.class_weight == "balanced":
        return []
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    most, least = counts.argmax(), counts.argmin()
    return [
        f"The classes are uneven: {counts[most]:,} images of {images.classes[most]} to train on, and {counts[least]:,} "
        f"of {images.classes[least]}. class_weight = 'balanced' counts images of rare classes for more."
    ]


def class_weights(settings: TrainingSettings, images: LabelledImages) -> np.ndarray:
    """What an image of each class counts for, float64 [classes]; 1 on average over the training images."""
    counts = np.bincount(images.train.labels, minlength=len(images.classes))
    if settings.class_weight == "none":
        return np.ones(len(counts))
    return counts.sum() / (len(counts) * counts)  # as scikit-learn's "balanced"
