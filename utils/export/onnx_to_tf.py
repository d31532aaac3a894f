"""ONNX -> TensorFlow through onnx-tf's handlers, node by node, with the weights as variables.

onnx-tf's own `prepare` makes every weight a constant; here its handlers meet `tf.Variable`s in TensorFlow's layout.
Knows no particular model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from utils.errors import ConversionError
from utils.export.function import ExportedFunction
from utils.export.onnx_tf_compat import TRAINING, import_onnx_tf

# Weights are stored as TensorFlow's kernels read them. The function shows each handler the transpose back to
# ONNX's axis order; the handler transposes again, and Grappler removes such a pair of inverses.
# (operator, position of the weight) -> axes of the ONNX array in the order of the TensorFlow variable
STORED_AXES = {
    ("Conv", 1): (2, 3, 1, 0),  # OIHW -> HWIO
    ("Gemm", 1): (1, 0),  # [out, in] -> [in, out]; PyTorch's Linear exports with transB
}
# Chains of these, each feeding only the next, are the repeated units of a network. Units alike in attributes and
# shapes share one trace, as a nested function, which makes tracing and saving several times faster. TensorFlow
# inlines nested functions before it optimises or runs anything.
CHAINED = {"Transpose", "Conv", "Gelu", "Relu", "BatchNormalization"}
MINIMUM_TENSORFLOW = "2.13"  # the oldest that benchmarks/compat.py runs what is exported here with
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

    chains = {False: _chains(nodes, set()), True: _chains(nodes, statistics)}
    traces: dict[Hashable, Callable] = {}

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        tensors = {"inputs": inputs}
        for name, variable in variables.items():
            tensors[name] = tf.transpose(variable, np.argsort(axes[name])) if name in axes else variable
        for chain in chains[training]:
            if len(chain) > 1:
                arguments = [tf.convert_to_tensor(tensors[name]) for name in _arguments(chain)]
                tensors[chain[-1].outputs[0]] = _shared(traces, handlers, chain, arguments)(*arguments)
            else:
                tensors.update(_run(handlers, chain, tensors | {TRAINING: training}))
        return tf.reshape(tensors[result.name], [-1, units])  # a static width; TF.js cannot run EnsureShape

    side = image_size or None
    return ExportedFunction(
        call=call,
        variables=variables,
        trainable={name: variable for name, variable in variables.items() if name not in statistics},
        output=output,
        units=units,
        input_shape=(side, side, 3),
        axes=axes,
        extra_versions={"minimum_tensorflow": MINIMUM_TENSORFLOW},
    )


def _chains(nodes: list[Any], updated: set[str]) -> list[list[Any]]:
    """The nodes, in order, grouped into chains; a node that updates variables stays alone, since it must see them."""
    uses = Counter(name for node in nodes for name in node.inputs)
    chains: list[list[Any]] = []
    for node in nodes:
        chainable = node.op_type in CHAINED and not updated.intersection(node.inputs)
        last = chains[-1][-1] if chains and chainable else None
        if (
            last
            and last.op_type in CHAINED
            and not updated.intersection(last.inputs)
            and (node.inputs[0] == last.outputs[0] and uses[last.outputs[0]] == 1)
        ):
            chains[-1].append(node)
        else:
            chains.append([node])
    return chains


def _arguments(chain: list[Any]) -> list[str]:
    """Names of what a chain reads from outside: its first input, then the weights in order."""
    return [chain[0].inputs[0], *(name for node in chain for name in node.inputs[1:])]


def _shared(
    traces: dict[Hashable, Callable], handlers: Mapping[str, Any], chain: list[Any], arguments: list[tf.Tensor]
) -> Callable:
    """The trace of chains like this one, by operators, attributes, dtypes and shapes; made when there is none yet."""
    specs = tuple(tf.TensorSpec(argument.shape, argument.dtype) for argument in arguments)
    key = (*((node.op_type, len(node.inputs), repr(sorted(node.attrs.items()))) for node in chain), specs)
    if key not in traces:

        def unit(*values: tf.Tensor) -> tf.Tensor:
            tensors = dict(zip(_arguments(chain), values, strict=True)) | {TRAINING: False}
            return _run(handlers, chain, tensors)[chain[-1].outputs[0]]

        with tf.init_scope():  # outside the graph that is being traced, which others share too
            traces[key] = tf.function(unit, autograph=False).get_concrete_function(*specs)
    return traces[key]


def _run(handlers: Mapping[str, Any], chain: list[Any], tensors: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """What each node of the chain puts out, by name."""
    known, produced = dict(tensors), {}
    for node in chain:
        outputs = handlers[node.op_type].handle(node, tensor_dict=known, strict=True)
        produced |= zip(node.outputs, outputs, strict=True)
        known |= produced
    return produced


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
