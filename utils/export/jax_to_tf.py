"""A JAX function to a TensorFlow function by way of jax2tf: an `XlaCallModule` forward, one for gradients.

Knows no model. It does what `jax2tf.convert(..., with_gradient=True)` does, in two halves: `jax.export`
lowers the function to StableHLO, jax2tf wraps that in a TensorFlow operation. In between, the module is written
again for the oldest TensorFlow that can run it: straight from JAX 0.10 it needs the newest.

jax2tf's gradient takes nothing from the forward pass but its arguments, so it computes that pass once more. Here the
pass in training mode hands on what its gradient needs, as JAX itself does; in inference mode, where memory counts and
gradients are rare, it is jax2tf's way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
from jax.experimental.jax2tf import jax2tf
from jax.extend.mlir import ir, passmanager
from jax.extend.mlir.dialects import stablehlo

from utils.errors import ConversionError
from utils.export.function import ExportedFunction

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
    predict_maps: Callable[[Mapping[str, jax.Array], jax.Array], dict[str, jax.Array]] | None = None,
) -> ExportedFunction:
    """Converts a function of JAX to one of TensorFlow, float32 throughout, for any batch size B.

    Args:
        predict: `(parameters, inputs)` -> [B, units].
        parameters: arrays by name; each becomes a `tf.Variable` of that name, all trainable.
        input_shape: (height, width, channels).
        output: "logits" or "features".
        predict_maps: `(parameters, inputs)` -> [B, h, w, C] by name, for `ExportedFunction.maps`; None for none.

    Raises:
        ConversionError: the function has side effects, or does not return one [B, units] float32 array.
    """
    variables = {name: tf.Variable(value, name=name) for name, value in parameters.items()}
    inference, training_pass = _lower(predict, parameters, input_shape)
    # JAX flattens a dict in the order of its sorted keys, and so must the arguments be.
    names = sorted(variables)

    run = _differentiable(inference)

    @tf.custom_gradient
    def run_in_training(*arguments: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        result, *residuals = jax2tf._run_exported_as_tf(arguments, training_pass.forward)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return list(jax2tf._run_exported_as_tf((*arguments, *residuals, upstream), training_pass.backward))

        return result, gradient

    def arguments_for(inputs: tf.Tensor) -> list[tf.Tensor]:
        return [*(tf.convert_to_tensor(variables[name]) for name in names), inputs]

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        arguments = arguments_for(inputs)
        return run_in_training(*arguments) if training else run(*arguments)[0]

    if predict_maps:
        map_names, lowered_maps = _lower_maps(predict_maps, parameters, input_shape)
        run_maps = _differentiable(lowered_maps)

    def maps(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(zip(map_names, run_maps(*arguments_for(inputs)), strict=True))

    return ExportedFunction(
        call=call,
        variables=variables,
        trainable=dict(variables),
        output=output,
        units=int(inference.forward.out_avals[0].shape[-1]),
        input_shape=tuple(input_shape),
        save_options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
        extra_versions={
            "jax": jax.__version__,
            "calling_convention_version": CALLING_CONVENTION_VERSION,
            "stablehlo_version": STABLEHLO_VERSION,
            "minimum_tensorflow": MINIMUM_TENSORFLOW,
            "platforms": ", ".join(PLATFORMS),
        },
        maps=maps if predict_maps else None,
    )


class _Pass(NamedTuple):
    """A forward pass and its vector-Jacobian product, in the versions that old TensorFlow reads.

    forward: (parameters, inputs) -> (output, residuals ...). backward: (parameters, inputs, residuals ..., upstream) ->
    gradients of the parameters and the inputs.
    """

    forward: jax.export.Exported
    backward: jax.export.Exported


def _differentiable(lowered: _Pass) -> Callable[..., list[tf.Tensor]]:
    """A pass without residuals as a function of tensors, (parameters ..., inputs) -> its outputs."""

    @tf.custom_gradient
    def run(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Callable]:
        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            return list(jax2tf._run_exported_as_tf((*arguments, *upstream), lowered.backward))

        return list(jax2tf._run_exported_as_tf(arguments, lowered.forward)), gradient

    return run


def _lower(
    predict: Callable, parameters: Mapping[str, np.ndarray], input_shape: tuple[int, int, int]
) -> tuple[_Pass, _Pass]:
    """The function for inference, without residuals, and for training."""
    shapes, inputs = _arguments(parameters, input_shape)
    _check(jax.jit(predict).trace(shapes, inputs), inputs.shape[0])
    return _without_residuals(predict, shapes, inputs), _with_residuals(predict, shapes, inputs)


def _lower_maps(
    predict: Callable, parameters: Mapping[str, np.ndarray], input_shape: tuple[int, int, int]
) -> tuple[list[str], _Pass]:
    """A function that gives arrays by name: the names in the order of its outputs, which is JAX's, and the function."""
    shapes, inputs = _arguments(parameters, input_shape)
    return sorted(jax.eval_shape(predict, shapes, inputs)), _without_residuals(predict, shapes, inputs)


def _arguments(
    parameters: Mapping[str, np.ndarray], input_shape: tuple[int, int, int]
) -> tuple[dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the parameters, and of the inputs, whose batch is of any size."""
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in parameters.items()}
    return shapes, jax.ShapeDtypeStruct((batch, *input_shape), jnp.float32)


def _without_residuals(predict: Callable, shapes: Mapping[str, Any], inputs: jax.ShapeDtypeStruct) -> _Pass:
    forward = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(shapes, inputs)
    return _Pass(_for_old_tensorflow(forward), _for_old_tensorflow(forward.vjp()))


def _with_residuals(predict: Callable, shapes: Mapping[str, Any], inputs: jax.ShapeDtypeStruct) -> _Pass:
    """The function as JAX differentiates it: what `jax.vjp` keeps of the forward pass goes into the backward one."""
    # Of the forward pass the products are kept, and what lies between them is computed again: it is quick, and would
    # be several times as large. (One compilation of both passes, as in `jax.jit`, chooses alike by itself.)
    policy = jax.checkpoint_policies.dots_saveable
    keeping_products = jax.checkpoint(predict, policy=policy, prevent_cse=False)
    kept: dict[str, Any] = {}  # filled when `forward` is traced

    def forward(parameters: dict[str, jax.Array], inputs: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        output, pull_back = jax.vjp(keeping_products, parameters, inputs)
        leaves, kept["tree"] = jax.tree.flatten(pull_back)
        given = [*jax.tree.leaves(parameters), inputs]
        # Weights are among what is kept. They are arguments of either pass already, and are not copied out of one.
        kept["given"] = [next((i for i, each in enumerate(given) if each is leaf), None) for leaf in leaves]
        return output, [leaf for leaf, index in zip(leaves, kept["given"], strict=True) if index is None]

    def backward(
        parameters: dict[str, jax.Array], inputs: jax.Array, residuals: list[jax.Array], upstream: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        given, computed = [*jax.tree.leaves(parameters), inputs], iter(residuals)
        leaves = [next(computed) if index is None else given[index] for index in kept["given"]]
        return jax.tree.unflatten(kept["tree"], leaves)(upstream)

    # Arguments that a pass does not use stay, so that every call is of the same form.
    lower = functools.partial(jax.export.export, platforms=PLATFORMS)
    lowered = lower(jax.jit(forward, keep_unused=True))(shapes, inputs)
    output, *residuals = (jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in lowered.out_avals)
    back = lower(jax.jit(backward, keep_unused=True))(shapes, inputs, residuals, output)
    return _Pass(_for_old_tensorflow(lowered), _for_old_tensorflow(back))


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
