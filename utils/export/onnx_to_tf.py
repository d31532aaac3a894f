"""ONNX -> TensorFlow through onnx-tf's handlers, node by node, with the weights as variables.

onnx-tf's own `prepare` makes every weight a constant; here its handlers meet `tf.Variable`s in TensorFlow's layout.
Knows no particular model.

onnx-tf 1.10 (2022) is unmaintained. All that keeps it running on today's onnx and TensorFlow is here: dtype tables that
onnx has removed; placeholders for `tensorflow_addons` and `tensorflow_probability`, which have no wheels for today's
Python or break beside Keras 3; handlers of operators that came after it, or that are wrong, slow or cannot train in it.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import math
import sys
import types
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx.helper
import tensorflow as tf

from utils.errors import ConversionError
from utils.export.function import ExportedFunction
from utils.export.onnx_file import checked_weights

Tensors = Mapping[str, Any]  # what onnx-tf calls a tensor dictionary
TRAINING = "training"  # key of the tensor dictionary under which handlers find the Python bool
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
    taps: Mapping[str, str] | None = None,
) -> ExportedFunction:
    """A TensorFlow function with variables that computes what the ONNX `graph` does.

    Args:
        graph: channels last, as from `export_onnx`.
        weights: float32 arrays by the names that the graph's inputs have, in ONNX's axis order.
        image_size: height and width of the inputs in pixels, or None (or 0) for any.
        output: "logits" or "features".
        taps: weights by the names of maps; a map is what the node that reads the weight gives. None for no maps.

    Raises:
        ConversionError: a weight is missing or misshapen, an operator has no handler, or a tap gives no map.
    """
    backend, _ = _with_handlers()
    nodes = [backend.OnnxNode(node) for node in graph.graph.node]
    handlers = backend.TensorflowBackend._get_handlers(graph.opset_import)[""]
    missing = {node.op_type for node in nodes} - set(handlers)
    if missing:
        raise ConversionError(f"onnx-tf has no handler for the ONNX operators {sorted(missing)}")
    weights = checked_weights(graph, weights)

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
    image, result = graph.graph.input[0], graph.graph.output[0]
    units = result.type.tensor_type.shape.dim[1].dim_value

    chains = {False: _chains(nodes, set()), True: _chains(nodes, statistics)}
    traces: dict[Hashable, Callable] = {}
    tapped = {name: _channels_last(nodes, weight) for name, weight in (taps or {}).items()}
    if hidden := set(tapped.values()) - {chain[-1].outputs[0] for chain in chains[False]}:
        raise ConversionError(f"maps are taken between blocks, and these tensors are within one: {sorted(hidden)}")

    def run(inputs: tf.Tensor, training: bool) -> dict[str, Any]:
        tensors = {"inputs": inputs}
        for name, variable in variables.items():
            tensors[name] = tf.transpose(variable, np.argsort(axes[name])) if name in axes else variable
        for chain in chains[training]:
            if len(chain) > 1:
                arguments = [tf.convert_to_tensor(tensors[name]) for name in _arguments(chain)]
                tensors[chain[-1].outputs[0]] = _shared(traces, handlers, chain, arguments)(*arguments)
            else:
                tensors.update(_run(handlers, chain, tensors | {TRAINING: training}))
        return tensors

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.reshape(run(inputs, training)[result.name], [-1, units])  # a static width; TF.js has no EnsureShape

    def maps(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = run(inputs, training=False)
        return {name: tensors[tensor] for name, tensor in tapped.items()}

    side = image_size or None
    return ExportedFunction(
        call=call,
        variables=variables,
        trainable={name: variable for name, variable in variables.items() if name not in statistics},
        output=output,
        units=units,
        input_shape=(side, side, image.type.tensor_type.shape.dim[3].dim_value),
        axes=axes,
        extra_versions={"minimum_tensorflow": MINIMUM_TENSORFLOW},
        maps=maps if tapped else None,
    )


def _channels_last(nodes: list[Any], weight: str) -> str:
    """The tensor that the node reading `weight` gives, channels last: what the Transpose behind it gives."""
    results = {name for node in nodes if weight in node.inputs for name in node.outputs}
    turned = [node.outputs[0] for node in nodes if node.op_type == "Transpose" and node.inputs[0] in results]
    if len(turned) != 1:
        raise ConversionError(f"no one node reads {weight} and is read channels last, so it gives no map")
    return turned[0]


def _chains(nodes: list[Any], updated: set[str]) -> list[list[Any]]:
    """The nodes, in order, grouped into chains; a node that updates variables stays alone, since it must see them."""
    uses = Counter(name for node in nodes for name in node.inputs)

    def chainable(node: Any) -> bool:
        return node.op_type in CHAINED and not updated.intersection(node.inputs)

    chains: list[list[Any]] = []
    for node in nodes:
        last = chains[-1][-1] if chains and chainable(chains[-1][-1]) and chainable(node) else None
        if last and node.inputs[0] == last.outputs[0] and uses[node.inputs[0]] == 1:
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


# --- onnx-tf itself


class _Missing(types.ModuleType):
    """Stands in for a package while onnx-tf is imported; what is taken from it raises when called."""

    def __getattr__(self, name: str) -> _Missing:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.__name__}.{name}")

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise ConversionError(
            f"this ONNX operator needs {self.__name__}, which does not run beside today's TensorFlow; "
            "no ConvMixer uses it, so the graph is not the one this project exports"
        )


@functools.cache
def import_onnx_tf() -> types.ModuleType:
    """The module `onnx_tf.backend`, made importable and otherwise as it is.

    Raises ConversionError, with the command that installs it, when onnx-tf is not there.
    """
    if importlib.util.find_spec("onnx_tf") is None:
        raise ConversionError(
            "onnx-tf is not installed. Install it without its outdated dependencies: "
            "pip install --no-deps -r requirements-onnx-tf.txt"
        )
    if not hasattr(onnx, "mapping"):
        onnx.mapping = onnx.helper.mapping = _mapping()
    absent = [p for p in ("tensorflow_addons", "tensorflow_probability") if importlib.util.find_spec(p) is None]
    sys.modules.update({package: _Missing(package) for package in absent})
    try:
        return importlib.import_module("onnx_tf.backend")
    finally:
        for package in absent:  # lest others find them
            del sys.modules[package]


def _mapping() -> types.SimpleNamespace:
    """What was `onnx.mapping`, tables, from the functions that replaced it."""
    dtypes = [t for t in onnx.TensorProto.DataType.values() if t != onnx.TensorProto.UNDEFINED]
    of_numpy = {t: onnx.helper.tensor_dtype_to_np_dtype(t) for t in dtypes}
    storage = {t: onnx.helper.tensor_dtype_to_storage_tensor_dtype(t) for t in dtypes}
    return types.SimpleNamespace(
        TENSOR_TYPE_TO_NP_TYPE=of_numpy,
        NP_TYPE_TO_TENSOR_TYPE={dtype: t for t, dtype in of_numpy.items() if dtype != np.dtype(object)},
        TENSOR_TYPE_TO_STORAGE_TENSOR_TYPE=storage,
        STORAGE_TENSOR_TYPE_TO_FIELD={t: onnx.helper.tensor_dtype_to_field(t) for t in set(storage.values())},
    )


@functools.cache  # which holds the handlers for good: `__subclasses__()` forgets what the collector takes
def _with_handlers() -> tuple[types.ModuleType, list[type]]:
    """onnx-tf's backend with ours by its own extension point: it collects the subclasses of BackendHandler.

    That cannot be undone in a process.
    """
    backend = import_onnx_tf()
    from onnx_tf.handlers.backend.constant import Constant
    from onnx_tf.handlers.backend.conv_mixin import ConvMixin
    from onnx_tf.handlers.backend.reduce_mean import ReduceMean
    from onnx_tf.handlers.backend_handler import BackendHandler
    from onnx_tf.handlers.handler import onnx_op

    Constant.version_19 = Constant.version_13  # it only admits more dtypes

    def reduce_mean_18(_cls: type, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
        axes = tf.get_static_value(tensor_dict[node.inputs[1]]).tolist()
        return [tf.reduce_mean(tensor_dict[node.inputs[0]], axes, keepdims=node.attrs.get("keepdims", 1) == 1)]

    ReduceMean.version_18 = classmethod(reduce_mean_18)

    @onnx_op("Gelu")
    class Gelu(BackendHandler):
        """Spelled as oneDNN and TFLite's converter know it; tf.nn.gelu's form, by erfc, takes half as long again."""

        @classmethod
        def version_20(cls, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
            approximate = node.attrs.get("approximate", "none")
            approximate = approximate.decode() if isinstance(approximate, bytes) else approximate
            x = tensor_dict[node.inputs[0]]
            if approximate == "tanh":
                return [_before_layout(lambda x: tf.nn.gelu(x, approximate=True), x)]
            return [_before_layout(lambda x: 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5))), x)]

    @onnx_op("Relu")
    class Relu(BackendHandler):
        """onnx-tf's, next to the bias before it."""

        @classmethod
        def version_14(cls, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
            return [_before_layout(tf.nn.relu, tensor_dict[node.inputs[0]])]

    @onnx_op("Conv")
    class Conv(ConvMixin, BackendHandler):
        """onnx-tf's convolution, with the bias as a BiasAdd: Grappler fuses that, but not a plain addition.

        One whose windows neither overlap nor leave gaps is a matrix product of windows by channels. With oneDNN, whose
        convolutions lay their weights out anew at each call, a single image takes a pointwise one in four fifths of the
        time, and patches in two thirds, as the product takes GELU in.
        """

        @classmethod
        def version_11(cls, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
            x, weight, *bias = (tensor_dict[name] for name in node.inputs)
            if _is_product(node, weight):
                x, weight = tf.transpose(x, (0, 2, 3, 1)), tf.transpose(weight, (2, 3, 1, 0))
                windows, rows, columns = _windows(x, *weight.shape[:2])
                y = tf.matmul(windows, tf.reshape(weight, (windows.shape[1], weight.shape[3])))
                y = tf.nn.bias_add(y, bias[0]) if bias else y
                return [tf.transpose(tf.reshape(y, (-1, rows, columns, weight.shape[3])), (0, 3, 1, 2))]
            without_bias = copy.copy(node)
            without_bias.inputs = node.inputs[:2]
            (y,) = cls.conv(without_bias, tensor_dict)
            if bias:
                y = tf.transpose(tf.nn.bias_add(tf.transpose(y, (0, 2, 3, 1)), bias[0]), (0, 3, 1, 2))
            return [y]

    @onnx_op("Flatten")
    class Flatten(BackendHandler):
        """onnx-tf's asks the running graph for both sizes, which TensorFlow 2.19's Grappler folds into (-1, -1)."""

        @classmethod
        def version_13(cls, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
            x, axis = tensor_dict[node.inputs[0]], node.attrs.get("axis", 1)
            if axis == 1 and x.shape[1:].is_fully_defined():
                return [tf.reshape(x, (-1, x.shape[1:].num_elements()))]
            return [tf.reshape(x, (tf.reduce_prod(tf.shape(x)[:axis]), tf.reduce_prod(tf.shape(x)[axis:])))]

    @onnx_op("BatchNormalization")
    class BatchNormalization(BackendHandler):
        """Replaces onnx-tf's, which normalises channels-first and updates nothing as PyTorch does."""

        @classmethod
        def version_15(cls, node: Any, tensor_dict: Tensors, **_kwargs: Any) -> list[tf.Tensor]:
            x, scale, offset, mean, variance = (tensor_dict[name] for name in node.inputs)
            epsilon, momentum = node.attrs.get("epsilon", 1e-5), node.attrs.get("momentum", 0.9)
            x = tf.transpose(x, (0, 2, 3, 1))
            if tensor_dict[TRAINING]:
                # The fused kernel normalises by the biased variance and reports the unbiased one, as PyTorch keeps.
                y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
                    x, scale, offset, epsilon=epsilon, is_training=True
                )
                for statistic, of_batch in ((mean, batch_mean), (variance, batch_variance)):
                    step = (statistic - of_batch) * (1 - momentum)
                    # An empty batch has no mean (NaN), and leaves the statistics as they are, in PyTorch too.
                    statistic.assign_sub(tf.where(tf.size(x) > 0, step, tf.zeros_like(step)))
            else:
                factor = scale * tf.math.rsqrt(variance + epsilon)
                y = x * factor + (offset - mean * factor)
            return [tf.transpose(y, (0, 3, 1, 2))]

    return backend, [Gelu, Relu, Conv, Flatten, BatchNormalization]


def _before_layout(function: Callable[[Any], Any], x: Any) -> Any:
    """`function(x)`, of each element by itself, computed before the reshape and transposes that `x` comes out of.

    A pointwise Conv ends with those. With oneDNN, Grappler makes one operation of a matrix product, its bias and the
    activation that follows, but only of one that follows at once: a transpose it moves away, a reshape it does not.
    """
    layouts = {"Transpose": tf.transpose, "Reshape": tf.reshape}
    if not tf.is_symbolic_tensor(x) or x.op.type not in layouts:
        return function(x)
    before, how = x.op.inputs
    return layouts[x.op.type](_before_layout(function, before), how)


def _is_product(node: Any, weight: Any) -> bool:
    """Whether a Conv is dense, without padding, and moves by the size of its windows."""
    plain = {"group": 1, "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0]} | node.attrs
    unpadded = plain["pads"] == [0, 0, 0, 0] and plain.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return plain["group"] == 1 and plain["dilations"] == [1, 1] and unpadded and plain["strides"] == weight.shape[2:]


def _windows(x: Any, height: int, width: int) -> tuple[Any, Any, Any]:
    """NHWC `x` -> its windows, side by side, [B * rows * columns, height * width * C], and how many rows and columns.

    What is left over below and to the right is cut off.
    """
    sizes = [size or tf.shape(x)[axis] for axis, size in ((1, x.shape[1]), (2, x.shape[2]))]
    rows, columns = sizes[0] // height, sizes[1] // width
    if (height, width) != (1, 1):
        if None in x.shape[1:3] or sizes != [rows * height, columns * width]:
            x = x[:, : rows * height, : columns * width]
        x = tf.reshape(x, (-1, height, columns, width * x.shape[3]))
        x = tf.transpose(x, (0, 2, 1, 3))
        return tf.reshape(x, (-1, height * x.shape[3])), rows, columns
    return tf.reshape(x, (-1, x.shape[3])), rows, columns
