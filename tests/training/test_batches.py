"""Batches: the same for the same seed and epoch wherever a run began, cropped and mirrored only where it may be."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from utils.families.variants import get_variant
from utils.images.photographs import pillow_preprocess
from utils.training import batches
from utils.training.batches import augment
from utils.training.datasets import GENTLE, STANDARD, LabelledImages, Split

PREPROCESSING = get_variant("convmixer_tiny").preprocessing
SIDE = PREPROCESSING.crop


def images_of(count=14, classes=2):
    """Images whose red channel is their own number, of different sizes."""
    pixels = [np.full((60 + i, 80, 3), (10 * i, 0, 255), np.uint8) for i in range(count)]
    labels = np.arange(count) % classes
    split = Split(lambda i: pixels[i], labels)
    names = tuple("abcdefgh"[:classes])
    return LabelledImages("numbers", names, split, Split(lambda i: pixels[i], labels[:5]), STANDARD, "0")


def numbers(batch):
    """Which images a batch holds, read off their red channel."""
    red = batch[..., 0] * PREPROCESSING.std[0] + PREPROCESSING.mean[0]
    return np.rint(np.asarray(red)[:, 0, 0] / 10).astype(int).tolist()


def epochs(images, wanted, seed=5):
    return [(x.numpy(), y.numpy()) for x, y in batches.training_batches(images, PREPROCESSING, 4, seed, wanted)]


def test_a_later_start_sees_the_very_batches_of_the_whole_run():
    images = images_of()
    whole, later = epochs(images, range(3)), epochs(images, range(2, 3))
    assert len(whole) == 3 * batches.steps_per_epoch(images, 4) == 9
    for (x, y), (x2, y2) in zip(whole[6:], later, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_an_epoch_shows_no_image_twice_and_each_has_its_label_in_an_order_of_its_own():
    images = images_of()
    run, other_seed = epochs(images, range(2)), epochs(images, range(1), seed=6)
    orders = []
    for epoch in (run[:3], run[3:], other_seed):
        shown = [number for x, _ in epoch for number in numbers(x)]
        assert len(set(shown)) == len(shown) == 12
        assert [label for _, y in epoch for label in y.argmax(axis=1)] == [number % 2 for number in shown]
        orders.append(tuple(shown))
    assert len(set(orders)) == 3


def gradient(height=64, width=96):
    """Red grows to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 0 * x], axis=-1).astype(np.uint8)


def test_validation_is_every_image_once_in_order_as_the_source_project_evaluates():
    pixels = [gradient(), gradient(90, 70), gradient(60, 60)[::-1]]
    images = replace(images_of(), validation=Split(pixels.__getitem__, np.array([1, 0, 1])))
    found = list(batches.validation_batches(images, PREPROCESSING, 2))
    assert [y.numpy().argmax(axis=1).tolist() for _, y in found] == [[1, 0], [1]]
    expected = [pillow_preprocess(Image.fromarray(each), PREPROCESSING) for each in pixels]
    np.testing.assert_allclose(np.concatenate([x for x, _ in found]), expected, atol=0.05)


def test_each_epoch_crops_anew():
    images = replace(images_of(), train=Split(lambda i: gradient(), np.arange(14) % 2))  # alike in any order
    run = [x for x, _ in epochs(images, range(2))]
    assert all(np.abs(one - other).max() > 0.1 for one, other in zip(run[:3], run[3:], strict=True))


def augmented(augmentation, count=64):
    found = [augment(tf.constant(gradient()), augmentation, PREPROCESSING, tf.constant([1, i])) for i in range(count)]
    return np.stack(found) * PREPROCESSING.std + PREPROCESSING.mean


def test_augmentation_crops_within_the_allowed_area_and_mirrors_half_of_the_images():
    found = augmented(STANDARD)
    assert found.shape == (64, SIDE, SIDE, 3)
    rightwards = found[:, SIDE // 2, -1, 0] > found[:, SIDE // 2, 0, 0]
    assert 16 < rightwards.sum() < 48
    assert np.all(found[:, -1, 0, 1] > found[:, 0, 0, 1])  # never upside down
    width = np.abs(found[:, 0, -1, 0] - found[:, 0, 0, 0]) / 255
    height = (found[:, -1, 0, 1] - found[:, 0, 0, 1]) / 255
    assert (width * height).min() < 0.2
    assert (width * height).max() > 0.5


def test_digits_are_cropped_gently_and_not_mirrored():
    found = augmented(GENTLE)
    assert np.all(found[:, SIDE // 2, -1, 0] > found[:, SIDE // 2, 0, 0])
    area = (found[:, 0, -1, 0] - found[:, 0, 0, 0]) * (found[:, -1, 0, 1] - found[:, 0, 0, 1]) / 255**2
    assert area.min() > 0.6


@pytest.mark.parametrize("augmented", [True, False])
def test_examples_can_be_shown_with_their_classes(augmented):
    images = images_of()
    pixels, names = batches.shown_examples(images, PREPROCESSING, 6, 0, augmented)
    assert pixels.shape == (6, SIDE, SIDE, 3)
    assert 0 <= pixels.min() < 0.01 < 0.99 < pixels.max() <= 1  # blue, and no green
    assert [names[i] for i in range(6)] == ["ab"[round(red * 25.5) % 2] for red in pixels[:, 0, 0, 0]]
