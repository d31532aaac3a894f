"""Checkpoints that nobody tuned to the gate, by kind: every one is a model that somebody may have.

Arrays by the canonical keys of `utils.checkpoints.loading`, of full size or tiny; the same for the same seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from gate.steps import JaxStep, torch_step
from utils.families.variants import Variant
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.settings import preprocessing_for

Weights = dict[str, np.ndarray]


def default(variant: Variant, seed: int) -> Weights:
    """What the authors' definition starts from: PyTorch's or Flax's default initialisation."""
    if variant.family == "convmixer":
        import torch

        from utils.families.convmixer.source import ConvMixer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ConvMixer(variant.architecture)
        return {key: value.numpy().copy() for key, value in model.state_dict().items()}
    import jax
    from flax.traverse_util import flatten_dict

    from utils.families.mlp_mixer.source import build

    size = variant.image_size
    tree = build(variant.architecture).init(jax.random.key(seed), np.zeros((1, size, size, 3), np.float32))
    return {key: np.array(value) for key, value in flatten_dict(tree["params"], sep="/").items()}


def trained(variant: Variant, seed: int, steps: int = 20) -> Weights:
    """The default after some steps of Adam on crops of photographs, three classes: statistics of real images."""
    size, rng = variant.image_size, np.random.default_rng(seed)
    whole = preprocessing_for(variant, 2 * size // variant.architecture.patch_size * variant.architecture.patch_size)
    pictures = [pillow_preprocess(photograph, whole) for photograph in sample_photographs().values()]

    def batch() -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(6) % len(pictures)
        corners = rng.integers(0, whole.crop - size + 1, (len(labels), 2))
        crops = [pictures[k][y : y + size, x : x + size] for k, (y, x) in zip(labels, corners, strict=True)]
        return np.stack(crops), labels

    return fitted(variant, default(variant, seed), (batch() for _ in range(steps)))


def fitted(variant: Variant, weights: Weights, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Weights:
    """The weights after a step of Adam in their source framework on each of the batches (see `gate.steps`)."""
    if variant.family == "convmixer":
        import torch

        from utils.families.convmixer.source import build_convmixer

        model = build_convmixer(variant.architecture, weights).requires_grad_().train()
        step = torch_step(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    else:
        import optax

        from utils.families.mlp_mixer.source import build, predict_function

        predict = predict_function(build(variant.architecture))
        step = JaxStep(lambda trained, _, images: predict(trained, images), weights, optax.adam(1e-3))
    for images, labels in batches:
        step(images, labels)
    left = model.state_dict() if variant.family == "convmixer" else step.trained
    return {key: np.array(value) for key, value in left.items()}


def scaled(variant: Variant, seed: int) -> Weights:
    """The default with every kernel three times as large."""
    weights = default(variant, seed)
    return {key: value * np.float32(3) if value.ndim > 1 else value for key, value in weights.items()}


def dead(variant: Variant, seed: int) -> Weights:
    """The default with one channel in eight that hardly varies: BatchNorm variance near zero, LayerNorm scale zero.

    So what is normalised hardly varies there either. (With weights as they were, each BatchNorm would make of it 300
    times as much, and the source itself infinity after a few blocks.)
    """
    weights = default(variant, seed)
    for key, value in weights.items():
        if key.endswith("running_var"):
            value[::8] = 1e-8
        elif re.match(r"stem\.0|blocks\.\d+\.(0\.fn\.0|1)\.", key):  # what a BatchNorm follows
            value[::8] *= np.float32(1e-4)
        elif key.endswith("scale"):
            value[::8] = 0
    return weights


def biased(variant: Variant, seed: int) -> Weights:
    """The default with biases far from zero, and moving means to match."""
    weights, rng = default(variant, seed), np.random.default_rng(seed)
    for key, value in weights.items():
        if key.endswith(("bias", "running_mean")):
            value += (3 + rng.standard_normal(value.shape)).astype(np.float32)
    return weights


def tied(variant: Variant, seed: int) -> Weights:
    """The trained one, whose classes come in pairs that differ by rounding: top-1 is anybody's guess."""
    weights = trained(variant, seed)
    for key in ("head.weight", "head.bias", "head/kernel", "head/bias"):
        if key in weights:
            classes = np.moveaxis(weights[key], 0 if "." in key else -1, 0)
            half = len(classes) // 2
            classes[half : 2 * half] = np.nextafter(classes[:half], np.float32(np.inf))
    return weights


KINDS: dict[str, Callable[[Variant, int], Weights]] = {
    "default": default,
    "trained": trained,
    "scaled": scaled,
    "dead": dead,
    "biased": biased,
    "tied": tied,
}
