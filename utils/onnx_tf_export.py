"""ONNX -> TensorFlow through onnx-tf's handlers, node by node, with the weights as variables.

onnx-tf's own `prepare` makes every weight a constant; here its handlers meet `tf.Variable`s in TensorFlow's layout.
Knows no particular model.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import tensorflow as tf

from utils.errors import ConversionError
from utils.exported import ExportedFunction
from utils.onnx_compat import TRAINING, import_onnx_tf

# Weights are stored as TensorFlow's kernels read them. The function shows each handler the transpose back to
# ONNX's axis order; the handler transposes again, and Grappler removes such a pair of inverses.
# (operator, position of the weight) -> axes of the ONNX array in the order of the TensorFlow variable
STORED_AXES = {
    ("Conv", 1): (2, 3, 1, 0),  # OIHW -> HWIO
    ("Gemm", 1): (1, 0),  # [out, in] -> [in, out]; PyTorch's Linear exports with transB
}
# BatchNormalization's moving mean and variance: state of the layer that no gradient changes.
STATISTICS = {("BatchNormalization", 3), ("BatchNormalization", 4)}


def export_tensorflow(
    graph: onnx.ModelProto,
    weights: Mapping[str, np.ndarray],
    image_size: int | None,
    output: str,
) -> ExportedFunction:
    """A TensorFlow function with variables that computes what the ONNX `graph` does.

    weights: float32 arrays by the names that the graph's inputs have, in ONNX's axis order.
    image_size: height and width of the inputs in pixels, or None (or 0) for any.
    output: "logits" or "features".

    Raises ConversionError when a weight is missing, misshapen, or an operator has no handler.
    """
    backend = import_onnx_tf()
    nodes = [backend.OnnxNode(node) for node in graph.graph.node]
    handlers = backend.TensorflowBackend._get_handlers(graph.opset_import)[""]
    missing = {node.op_type for node in nodes} - set(handlers)
    if missing:
        raise ConversionError(f"onnx-tf has no handler for the ONNX operators {sorted(missing)}")
    _check_shapes(graph, weights)

    uses = {name: (node.op_type, i) for node in nodes for i, name in enumerate(node.inputs) if name in weights}
    axes = {name: STORED_AXES[use] for name, use in uses.items() if use in STORED_AXES}
    statistics = {name for name, use in uses.items() if use in STATISTICS}
    variables = {
        name: tf.Variable(
            np.ascontiguousarray(np.transpose(weights[name], axes.get(name))),
            trainable=name not in statistics,
            name=name,
        )
        for name in uses
    }
    result = graph.graph.output[0]
    units = result.type.tensor_type.shape.dim[1].dim_value

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        tensors = {"inputs": inputs, TRAINING: training}
        for name, variable in variables.items():
            # Handlers assign to the statistics, so those stay variables.
            tensors[name] = (
                tf.transpose(variable, np.argsort(axes[name]))
                if name in axes
                else variable
                if name in statistics
                else tf.convert_to_tensor(variable)
            )
        for node in nodes:
            produced = handlers[node.op_type].handle(node, tensor_dict=tensors, strict=True)
            tensors.update(zip(node.outputs, produced, strict=True))
        return tf.ensure_shape(tensors[result.name], [None, units])

    side = image_size or None
    return ExportedFunction(
        call=call,
        variables=variables,
        trainable={name: variable for name, variable in variables.items() if name not in statistics},
        output=output,
        units=units,
        input_shape=(side, side, 3),
        axes=axes,
    )


def _check_shapes(graph: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> None:
    """Every input of the graph but the image has a weight of its shape, and no weight is float64 by accident."""
    for value in graph.graph.input:
        if value.name == "inputs":
            continue
        expected = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        found = weights.get(value.name)
        if found is None:
            raise ConversionError(f"the ONNX graph reads {value.name} {expected}, which the weights lack")
        if found.shape != expected or found.dtype != np.float32:
            raise ConversionError(
                f"{value.name} is {found.dtype} {found.shape}; the ONNX graph reads float32 {expected}"
            )
