"""ConvMixer in PyTorch, and its ways to TensorFlow, Keras and ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from utils.families.base import Export, Weights, tapped_blocks
from utils.families.convmixer import source as pytorch
from utils.families.convmixer.source import ReferenceModel
from utils.families.variants import ConvMixerArchitecture
from utils.machine.quiet import quiet_imports

if TYPE_CHECKING:
    import keras
    import onnx


def build(architecture: ConvMixerArchitecture, weights: Weights, head: str) -> ReferenceModel:
    """The PyTorch model, which shares its memory with `weights`."""
    return ReferenceModel(pytorch.build_convmixer(architecture, weights, head))


def repadded(source: ReferenceModel) -> ReferenceModel:
    """The same model with the other padding of even kernels."""
    return ReferenceModel(pytorch.padded_left_and_above(source.model))


def predictor(architecture: ConvMixerArchitecture, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """The PyTorch classifier as a function of NHWC arrays."""
    return pytorch.as_nhwc(pytorch.build_convmixer(architecture, weights))


def export(source: ReferenceModel, weights: Weights, image_size: int, operations: str) -> Export:
    """PyTorch -> ONNX -> onnx-tf's handlers -> a TensorFlow function; there is one kind of operations."""
    with quiet_imports():
        from utils.export import onnx_to_tf, torch_to_onnx

    del operations
    graph = torch_to_onnx.export_onnx(source.model, source.output)
    operators = [node.op_type for node in graph.graph.node]
    shown = ", ".join(f"{operators.count(each)} {each}" for each in sorted(set(operators)))
    tapped = taps(len(source.model.blocks)) if source.output == "features" else None
    function = onnx_to_tf.export_tensorflow(graph, weights, image_size, source.output, tapped)
    return Export(function, {"ONNX operators": shown})


def taps(depth: int) -> dict[str, str]:
    """A weight of the last layer of the stem, and of each of `tapped_blocks`, by the name of the map."""
    blocks = tapped_blocks(depth)
    return {"stem": "stem.2.weight"} | {name: f"blocks.{index}.3.weight" for name, index in blocks.items()}


def keras_model(architecture: ConvMixerArchitecture, weights: Weights, head: str, image_size: int) -> keras.Model:
    """The model of Keras's own layers."""
    from utils.families.convmixer import keras_model as layers

    return layers.build(architecture, weights, head, image_size)


def onnx_graph(source: ReferenceModel) -> onnx.ModelProto:
    """PyTorch's own graph, channels first."""
    from utils.export import torch_to_onnx

    return torch_to_onnx.export_onnx(source.model, source.output, channels_last=False)
