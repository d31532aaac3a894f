"""A JAX function to a TensorFlow function by way of jax2tf: an `XlaCallModule` forward, one for gradients.

Knows no model. It does what `jax2tf.convert(..., with_gradient=True)` does, in two halves: `jax.export`
lowers the function to StableHLO, jax2tf wraps that in a TensorFlow operation. In between, the module is written
again for the oldest TensorFlow that can run it: straight from JAX 0.10 it needs the newest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from jax.experimental.jax2tf import jax2tf
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

from utils.errors import ConversionError
from utils.exported import ExportedFunction

PLATFORMS = ("cpu", "cuda", "tpu")  # without names the artefact is tied to the converting machine's kind

# What TensorFlow 2.14 can read, measured with benchmarks/compat.py; 2.13 stops at calling convention 5.
# StableHLO 0.9.0 is the oldest version that JAX can write. JAX's own convention is 10: since 8, convention 9
# added the tokens of side effects, which `_check` refuses, and 10 an attribute on partitioning over devices,
# which is not used here.
STABLEHLO_VERSION = "0.9.0"
CALLING_CONVENTION_VERSION = 8
MINIMUM_TENSORFLOW = "2.14"


def export(
    predict: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array],
    parameters: Mapping[str, np.ndarray],
    input_shape: tuple[int, int, int],
    output: str,
) -> ExportedFunction:
    """Convert `predict(parameters, inputs)` -> [B, units], float32 throughout, for any batch size B.

    parameters: arrays by name; each becomes a `tf.Variable` of that name, all trainable.
    input_shape: (height, width, channels).
    output: "logits" or "features".

    Raises ConversionError when the function has side effects or does not return one [B, units] float32 array.
    """
    variables = {name: tf.Variable(value, name=name) for name, value in parameters.items()}
    forward, backward = _lower(predict, parameters, input_shape)
    # JAX flattens a dict in the order of its sorted keys, and so must the arguments be.
    names = sorted(variables)

    @tf.custom_gradient
    def run(*arguments: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return list(_call_module((*arguments, upstream), backward))

        return _call_module(arguments, forward)[0], gradient

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        del training  # nothing in the function depends on it
        return run(*(tf.convert_to_tensor(variables[name]) for name in names), inputs)

    return ExportedFunction(
        call=call,
        variables=variables,
        trainable=dict(variables),
        output=output,
        units=int(forward.out_avals[0].shape[-1]),
        input_shape=tuple(input_shape),
        save_options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
        extra_versions={
            "jax": jax.__version__,
            "calling_convention_version": CALLING_CONVENTION_VERSION,
            "stablehlo_version": STABLEHLO_VERSION,
            "minimum_tensorflow": MINIMUM_TENSORFLOW,
            "platforms": ", ".join(PLATFORMS),
        },
    )


def _lower(
    predict: Callable, parameters: Mapping[str, np.ndarray], input_shape: tuple[int, int, int]
) -> tuple[jax.export.Exported, jax.export.Exported]:
    """The function and its vector-Jacobian product, in the versions that old TensorFlow reads."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in parameters.items()}
    inputs = jax.ShapeDtypeStruct((batch, *input_shape), jnp.float32)
    function = jax.jit(predict)
    _check(function.trace(shapes, inputs), batch)
    forward = jax.export.export(function, platforms=PLATFORMS)(shapes, inputs)
    return _for_old_tensorflow(forward), _for_old_tensorflow(forward.vjp())


def _check(traced: jax.stages.Traced, batch: object) -> None:
    if traced.jaxpr.effects:
        raise ConversionError(
            f"{traced.fun_name} has side effects, such as a print or a callback, which a SavedModel cannot "
            "carry. Export a pure function."
        )
    found = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(traced.out_info)]
    if len(found) != 1 or len(found[0][0]) != 2 or found[0][0][0] != batch or found[0][1] != "float32":
        raise ConversionError(
            f"{traced.fun_name} should return one float32 array of shape [batch, units], found {found}."
        )


def _for_old_tensorflow(exported: jax.export.Exported) -> jax.export.Exported:
    """The same module, written as `STABLEHLO_VERSION` and without source locations.

    The locations are what old TensorFlow cannot read, whatever the StableHLO version: JAX writes line ranges,
    an attribute that older MLIR does not know (https://github.com/openxla/stablehlo/issues/2724).
    """
    context = ir.Context()
    stablehlo.register_dialect(context)
    with context:
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        serialized = stablehlo.serialize_portable_artifact(module, STABLEHLO_VERSION)
    return dataclasses.replace(
        exported, mlir_module_serialized=serialized, calling_convention_version=CALLING_CONVENTION_VERSION
    )


def _call_module(arguments: tuple[tf.Tensor, ...], exported: jax.export.Exported) -> tuple[tf.Tensor, ...]:
    return jax2tf._run_exported_as_tf(arguments, exported)
