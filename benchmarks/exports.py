"""A variant's synthetic weights, its source model and its exports, as the benchmarks take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.checkpoints import loading
from utils.export.function import ExportedFunction
from utils.families.variants import OUTPUTS, Variant, get_variant

if TYPE_CHECKING:
    from utils.families.convmixer.source import ConvMixer

SEED = 0  # of the synthetic weights and of the images
WEIGHTS = f"synthetic, seed {SEED}: of the official files' format and size, not the official values"
KINDS = {"convmixer": ("onnx-tf",), "mixer": ("xla", "plain")}  # of exports


def noise(count: int, image_size: int) -> np.ndarray:
    """The images that everything here runs on: standard normal float32 [count, image_size, image_size, 3]."""
    return np.random.default_rng(SEED).standard_normal((count, image_size, image_size, 3), dtype=np.float32)


def weights_of(variant: Variant) -> dict[str, np.ndarray]:
    """By canonical key; views of the file."""
    path = loading.resolve(variant, "synthetic", SEED, progress=False).path
    return loading.read(path, variant)


def torch_model(variant: Variant, head: str = "classification") -> tuple[ConvMixer, dict[str, np.ndarray]]:
    """The PyTorch model, and its weights as arrays, which share the model's memory."""
    from utils.families.convmixer.source import build_convmixer

    weights = weights_of(variant)
    return build_convmixer(variant.architecture, weights, head), weights


def flax_model(variant: Variant, head: str = "classification") -> tuple[Callable, dict[str, np.ndarray]]:
    """`(parameters, inputs)` -> output, and the parameters."""
    from utils.families.mlp_mixer import source as mlp_mixer

    model = mlp_mixer.build(variant.architecture, head)
    return mlp_mixer.predict_function(model), mlp_mixer.select_parameters(model, weights_of(variant))


def exported(variant: Variant, kind: str, head: str = "classification") -> ExportedFunction:
    """As a TensorFlow function: "onnx-tf" (ConvMixer), "xla" or "plain" (Mixer)."""
    if kind == "onnx-tf":
        from utils.export.onnx_to_tf import export_tensorflow
        from utils.export.torch_to_onnx import export_onnx

        model, weights = torch_model(variant, head)
        return export_tensorflow(export_onnx(model, OUTPUTS[head]), weights, variant.image_size, OUTPUTS[head])
    from utils.export import jax_to_tf
    from utils.families.mlp_mixer import plain as plain_mixer

    predict, parameters = flax_model(variant, head)
    if kind == "plain":
        return plain_mixer.export(variant.architecture, head, parameters)
    return jax_to_tf.export(predict, parameters, (variant.image_size, variant.image_size, 3), OUTPUTS[head])


def prepare_onnx(name: str) -> Callable[[Path], None]:
    """For a `Worker`: the function that writes a ConvMixer's ONNX file, a conversion's but for its record."""
    from utils.export import onnx_file, torch_to_onnx

    def export(path: Path) -> None:
        variant = get_variant(name)
        model, weights = torch_model(variant)
        graph = torch_to_onnx.export_onnx(model, "logits", channels_last=False)
        onnx_file.write(path, graph, weights, variant.image_size, {})

    return export


def prepare_export(kind: str, name: str, head: str = "classification") -> Callable[[Path], None]:
    """For a `Worker`, whose memory is then nobody else's: the function that writes the SavedModel into a folder."""
    from utils.export.saved_model import save_model

    def export(folder: Path) -> None:
        save_model(exported(get_variant(name), kind, head), folder)

    return export
