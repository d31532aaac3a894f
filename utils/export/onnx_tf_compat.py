"""Lets onnx-tf 1.10 (2022, unmaintained) import and run on today's onnx and TensorFlow.

What it misses, and what stands in:
- `onnx.mapping` and `onnx.helper.mapping`, dtype tables that onnx has removed: rebuilt from `onnx.helper`.
- `tensorflow_addons` and `tensorflow_probability`, which have no wheels for today's Python or break beside Keras 3:
  empty modules, present only while onnx-tf is imported; the two handlers that would use them (Hardmax, Bernoulli)
  raise when called.
- operators that came after it: `Gelu` (opset 20), `ReduceMean` with its axes as an input (opset 18), and `Constant`
  19, which only admits more dtypes than `Constant` 13.
- a Flatten that is right under TensorFlow 2.19, a Conv whose bias and a Relu which Grappler can fuse, and a
  BatchNormalization that keeps channels last and that can train.
"""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx.helper

from utils.errors import ConversionError

Tensors = Mapping[str, Any]  # what onnx-tf calls a tensor dictionary
TRAINING = "training"  # key of the tensor dictionary under which handlers find the Python bool
_DTYPES = [t for t in onnx.TensorProto.DataType.values() if t != onnx.TensorProto.UNDEFINED]


@functools.cache
def import_onnx_tf() -> types.ModuleType:
    """The module `onnx_tf.backend`, made importable, with the additional handlers registered.

    Raises ConversionError, with the command that installs it, when onnx-tf is not there.
    """
    backend = import_plain_onnx_tf()
    # Referred to for good: onnx-tf finds handlers by `__subclasses__()`, which forgets what the collector takes.
    backend.additional_handlers = _register_handlers()
    return backend


@functools.cache
def import_plain_onnx_tf() -> types.ModuleType:
    """The module `onnx_tf.backend`, made importable and otherwise as it is, to compare with.

    Its handlers are onnx-tf's own as long as nothing in the process has called `import_onnx_tf`, which cannot be
    undone. Raises ConversionError as that does.
    """
    if importlib.util.find_spec("onnx_tf") is None:
        raise ConversionError(
            "onnx-tf is not installed. Install it without its outdated dependencies: "
            "pip install --no-deps -r requirements-onnx-tf.txt"
        )
    _supply_onnx_mapping()
    with _placeholders("tensorflow_addons.seq2seq.hardmax", "tensorflow_probability.distributions.Bernoulli"):
        return importlib.import_module("onnx_tf.backend")


def _supply_onnx_mapping() -> None:
    """Rebuild `onnx.mapping`, which onnx-tf reads as tables, from the functions that replaced it."""
    if hasattr(onnx, "mapping"):
        return
    mapping = types.ModuleType("onnx.mapping", "dtype tables rebuilt from onnx.helper")
    mapping.TENSOR_TYPE_TO_NP_TYPE = {t: onnx.helper.tensor_dtype_to_np_dtype(t) for t in _DTYPES}
    mapping.NP_TYPE_TO_TENSOR_TYPE = {
        dtype: t for t, dtype in mapping.TENSOR_TYPE_TO_NP_TYPE.items() if dtype != np.dtype(object)
    }
    mapping.TENSOR_TYPE_TO_STORAGE_TENSOR_TYPE = {
        t: onnx.helper.tensor_dtype_to_storage_tensor_dtype(t) for t in _DTYPES
    }
    mapping.STORAGE_TENSOR_TYPE_TO_FIELD = {
        t: onnx.helper.tensor_dtype_to_field(t) for t in set(mapping.TENSOR_TYPE_TO_STORAGE_TENSOR_TYPE.values())
    }
    sys.modules["onnx.mapping"] = onnx.mapping = onnx.helper.mapping = mapping


@contextmanager
def _placeholders(*names: str) -> Iterator[None]:
    """Modules `package.module` whose last part raises when called; gone again afterwards, lest others find them."""
    added = []
    for package, module, function in (name.split(".") for name in names):
        if importlib.util.find_spec(package) is not None:
            continue
        outer, inner = types.ModuleType(package), types.ModuleType(f"{package}.{module}")
        setattr(inner, function, functools.partial(_unavailable, package))
        setattr(outer, module, inner)
        sys.modules[package], sys.modules[inner.__name__] = outer, inner
        added += [package, inner.__name__]
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _unavailable(package: str, *_args: Any, **_kwargs: Any) -> NoReturn:
    raise ConversionError(
        f"this ONNX operator needs {package}, which does not run beside today's TensorFlow; "
        "no ConvMixer uses it, so the graph is not the one this project exports"
    )


def _register_handlers() -> tuple[type, ...]:
    """Add handlers by onnx-tf's own extension point: it collects the subclasses of BackendHandler."""
    import tensorflow as tf
    from onnx_tf.handlers.backend.constant import Constant
    from onnx_tf.handlers.backend.conv_mixin import ConvMixin
    from onnx_tf.handlers.backend.reduce_mean import ReduceMean
    from onnx_tf.handlers.backend_handler import BackendHandler
    from onnx_tf.handlers.handler import onnx_op

    Constant.version_19 = Constant.version_13

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
                mean.assign_sub((mean - batch_mean) * (1 - momentum))
                variance.assign_sub((variance - batch_variance) * (1 - momentum))
            else:
                factor = scale * tf.math.rsqrt(variance + epsilon)
                y = x * factor + (offset - mean * factor)
            return [tf.transpose(y, (0, 3, 1, 2))]

    return Gelu, Relu, Conv, Flatten, BatchNormalization


def _before_layout(function: Callable[[Any], Any], x: Any) -> Any:
    """`function(x)`, of each element by itself, computed before the reshape and transposes that `x` comes out of.

    A pointwise Conv ends with those. With oneDNN, Grappler makes one operation of a matrix product, its bias and the
    activation that follows, but only of one that follows at once: a transpose it moves away, a reshape it does not.
    """
    import tensorflow as tf

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
    import tensorflow as tf

    sizes = [size or tf.shape(x)[axis] for axis, size in ((1, x.shape[1]), (2, x.shape[2]))]
    rows, columns = sizes[0] // height, sizes[1] // width
    if (height, width) != (1, 1):
        if None in x.shape[1:3] or sizes != [rows * height, columns * width]:
            x = x[:, : rows * height, : columns * width]
        x = tf.reshape(x, (-1, height, columns, width * x.shape[3]))
        x = tf.transpose(x, (0, 2, 1, 3))
        return tf.reshape(x, (-1, height * x.shape[3])), rows, columns
    return tf.reshape(x, (-1, x.shape[3])), rows, columns
