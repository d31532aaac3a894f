"""MLP-Mixer in Flax: the source model that every exported Mixer is compared with.

Paper: "MLP-Mixer: An all-MLP Architecture for Vision", https://arxiv.org/abs/2105.01601. Sub-module names are
those of the official checkpoints, so a parameter's path in the tree is its key in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.experimental
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from utils.errors import CheckpointError, ParameterError
from utils.families.base import tapped_blocks
from utils.families.variants import HEADS, OUTPUTS, MixerArchitecture

Arrays = dict[str, jax.Array]

if jax.__version_info__ >= (0, 11):
    # Flax 0.11, which Colab has beside JAX 0.11, looks for it where JAX no longer has it; Flax 0.12.8 does not.
    jax.core.get_opaque_trace_state = jax.extend.core.get_opaque_trace_state
# JAX 0.7, which Colab had before and Kaggle has, knows it by its old name alone.
_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


class MlpBlock(nn.Module):
    """Two dense layers over the last axis, with the activation between them."""

    hidden: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., n] -> [..., n]."""
        width = x.shape[-1]
        x = nn.Dense(self.hidden)(x)
        x = nn.relu(x) if self.activation == "relu" else nn.gelu(x, approximate=self.activation == "gelu_tanh")
        return nn.Dense(width)(x)


class MixerBlock(nn.Module):
    """Mixes over tokens, then over channels, each with a residual."""

    architecture: MixerArchitecture

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, tokens, channels] -> the same."""
        a = self.architecture
        y = nn.LayerNorm(epsilon=a.layer_norm_epsilon)(x)
        y = jnp.swapaxes(y, 1, 2)
        y = MlpBlock(a.tokens_mlp_dim, a.activation, name="token_mixing")(y)
        x = x + jnp.swapaxes(y, 1, 2)
        y = nn.LayerNorm(epsilon=a.layer_norm_epsilon)(x)
        return x + MlpBlock(a.channels_mlp_dim, a.activation, name="channel_mixing")(y)


class MlpMixer(nn.Module):
    """The whole model: patches, blocks, pooling, and a head unless `head` is "fe"."""

    architecture: MixerArchitecture
    head: str = "classification"

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Float32 [B, H, W, C], H = W = image_size -> logits [B, classes] or features [B, hidden_dim]."""
        patch = (self.architecture.patch_size,) * 2
        x = nn.Conv(self.architecture.hidden_dim, patch, strides=patch, padding="VALID", name="stem")(inputs)
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # patches in row order
        for i in range(self.architecture.blocks):
            x = MixerBlock(self.architecture, name=f"MixerBlock_{i}")(x)
        x = nn.LayerNorm(epsilon=self.architecture.layer_norm_epsilon, name="pre_head_layer_norm")(x)
        x = jnp.mean(x, axis=1)
        return x if self.head == "fe" else nn.Dense(self.architecture.classes, name="head")(x)


def build(architecture: MixerArchitecture, head: str = "classification") -> MlpMixer:
    """The model for an architecture and a head. Raises ParameterError for an unknown head."""
    if head not in HEADS:
        raise ParameterError(f"head: expected one of {', '.join(HEADS)}, found {head!r}.")
    return MlpMixer(architecture, head)


def parameter_shapes(model: MlpMixer) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its key, without computing or allocating any."""
    a = model.architecture
    inputs = jax.ShapeDtypeStruct((1, a.image_size, a.image_size, a.channels), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
    return {key: leaf.shape for key, leaf in flatten_dict(tree, sep="/").items()}


def select_parameters(model: MlpMixer, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `model` from a checkpoint's flat `a/b/c` arrays, in the model's own order.

    A feature extractor drops `head/kernel` and `head/bias`, by name; nothing else may be left over, and none
    missing. Raises CheckpointError that lists missing keys, unexpected keys and wrong shapes.
    """
    wanted = parameter_shapes(model)
    dropped = ("head/kernel", "head/bias") if model.head == "fe" else ()
    found = {key: tuple(array.shape) for key, array in arrays.items() if key not in dropped}
    if found != wanted:
        problems = [
            f"{key}: expected {wanted.get(key, 'none')}, found {found.get(key, 'none')}"
            for key in wanted | found
            if wanted.get(key) != found.get(key)
        ]
        raise CheckpointError(
            f"These parameters do not fit a Mixer with {model.architecture} and head {model.head!r}: "
            f"{'; '.join(problems)}. Choose the variant that the checkpoint was trained as."
        )
    return {key: arrays[key] for key in wanted}


def predict_function(model: MlpMixer) -> Callable[[Mapping[str, Any], jax.Array], jax.Array]:
    """`(parameters, inputs)` -> the model's output; the parameters as `select_parameters` returns them."""

    def predict(parameters: Mapping[str, Any], inputs: jax.Array) -> jax.Array:
        return model.apply({"params": unflatten_dict(dict(parameters), sep="/")}, inputs)

    return predict


def maps_function(model: MlpMixer) -> Callable[[Mapping[str, Any], jax.Array], Arrays]:
    """`(parameters, inputs)` -> what comes out of the stem and of `tapped_blocks`, [B, h, w, hidden_dim] by name."""
    layers = {"stem": "stem"}
    layers |= {f"MixerBlock_{index}": name for name, index in tapped_blocks(model.architecture.blocks).items()}
    side = model.architecture.image_size // model.architecture.patch_size

    def maps(parameters: Mapping[str, Any], inputs: jax.Array) -> Arrays:
        tree = {"params": unflatten_dict(dict(parameters), sep="/")}
        _, state = model.apply(
            tree, inputs, capture_intermediates=lambda module, _: module.name in layers, mutable=["intermediates"]
        )
        found = {name: state["intermediates"][layer]["__call__"][0] for layer, name in layers.items()}
        return {name: x.reshape(x.shape[0], side, side, x.shape[-1]) for name, x in found.items()}

    return maps


def as_function(model: MlpMixer, parameters: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of float32 NHWC arrays, to compare with an export of the same interface."""
    predict, parameters = jax.jit(predict_function(model)), jax.device_put(dict(parameters))
    return lambda inputs: np.asarray(predict(parameters, inputs))


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(model: MlpMixer, float64: bool, parameters: Arrays, inputs: jax.Array) -> dict[str, jax.Array]:
    parameters, inputs = _in(float64, (parameters, inputs))
    tree = {"params": unflatten_dict(parameters, sep="/")}
    if model.head == "fe":
        return {"features": model.apply(tree, inputs)}
    before_head = "pre_head_layer_norm"
    logits, state = model.apply(
        tree, inputs, capture_intermediates=lambda module, _: module.name == before_head, mutable=["intermediates"]
    )
    (tokens,) = state["intermediates"][before_head]["__call__"]
    return {"features": jnp.mean(tokens, axis=1), "logits": logits}


@partial(jax.jit, static_argnums=(0, 1))
def _maps(model: MlpMixer, float64: bool, parameters: Arrays, inputs: jax.Array) -> Arrays:
    return maps_function(model)(*_in(float64, (parameters, inputs)))


@partial(jax.jit, static_argnums=(0, 1))
def _gradients(model: MlpMixer, float64: bool, parameters: Arrays, inputs: jax.Array) -> Arrays:
    parameters, inputs = _in(float64, (parameters, inputs))
    predict = predict_function(model)
    return jax.grad(lambda p: (predict(p, inputs) ** 2).sum() / len(inputs))(parameters)


def _in(float64: bool, arrays: Any) -> Any:
    """The same arrays, in float64 if so: within what is compiled, so that not all need be there at a time."""
    return jax.tree.map(lambda array: array.astype(jnp.float64), arrays) if float64 else arrays


def without_influence(key: str) -> bool:
    """Whether a parameter's gradient is zero but for rounding, so that its relative error says nothing.

    The last bias of the token mixing adds the same to every channel of a token, and every LayerNorm after it takes
    that away again.
    """
    return key.endswith("token_mixing/Dense_1/bias")


def join_vanishing(gradients: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
    """The same gradients, each that is `without_influence` in one flat array with that of its layer's kernel.

    Alone it is rounding, and has no relative error; beside its kernel's, a value that should not be there still shows.
    """
    joined = dict(gradients)
    for bias in filter(without_influence, gradients):
        kernel = bias.removesuffix("bias") + "kernel"
        parts = [joined.pop(kernel, None), joined.pop(bias)]
        complete = all(part is not None for part in parts)
        joined[f"{kernel} and bias"] = np.concatenate([np.ravel(part) for part in parts]) if complete else None
    return joined


class ReferenceModel:
    """The model in float32 and, with the very same weights, in float64; methods as `utils.parity.proof` asks for them.

    JAX computes in float64 for these calls alone: the rest of the process stays in float32.
    """

    framework, one_core, has_statistics, shares_gradients = "JAX", False, False, True
    has_maps = True
    merge_vanishing_gradients = staticmethod(join_vanishing)

    def __init__(self, model: MlpMixer, parameters: Mapping[str, Any]) -> None:
        self.model, self.output = model, OUTPUTS[model.head]
        self.has_kinks = model.architecture.activation == "relu"
        self.parameters = sum(array.size for array in parameters.values())
        self._parameters = parameters

    def variables(self) -> dict[str, np.ndarray]:
        """Every parameter, by key."""
        return {key: np.asarray(value) for key, value in self._parameters.items()}

    @staticmethod
    def probe_factor(key: str) -> float:
        """By what a parameter is multiplied so that each LayerNorm's epsilon decides much of what comes out of it.

        The stream between the blocks is then very small. Whether another epsilon shows otherwise depends on the
        checkpoint: where tokens vary by far more, it is lost in rounding.
        """
        return 2.0**-10 if key.startswith("stem/") or "/Dense_1/" in key else 1.0

    def outputs(self, inputs: np.ndarray, dtype: str, probed: bool = False) -> dict[str, np.ndarray]:
        """`features` and, of a classifier, `logits`. Images go one by one: another batch would be compiled anew."""
        parameters = self.variables()
        if probed:
            parameters = {key: value * np.float32(self.probe_factor(key)) for key, value in parameters.items()}
        float64 = dtype == "float64"
        with _enable_x64(float64):
            there = jax.device_put(parameters)
            found = [_outputs(self.model, float64, there, image[np.newaxis]) for image in inputs]
            return {name: np.concatenate([np.asarray(each[name]) for each in found]) for name in found[0]}

    def maps(self, inputs: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """What comes out of the stem and of `tapped_blocks`, [B, h, w, hidden_dim] by name."""
        float64 = dtype == "float64"
        with _enable_x64(float64):
            found = _maps(self.model, float64, dict(self._parameters), inputs)
            names = ("stem", *tapped_blocks(self.model.architecture.blocks))  # JAX sorts them otherwise
            return {name: np.asarray(found[name]) for name in names}

    def gradients(self, inputs: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """By key."""
        float64 = dtype == "float64"
        with _enable_x64(float64):
            found = _gradients(self.model, float64, dict(self._parameters), inputs)
            return {key: np.asarray(value) for key, value in found.items()}

    def training_pass(self, inputs: np.ndarray, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The outputs, and no statistics: a Mixer has neither BatchNorm nor dropout."""
        return self.outputs(inputs, dtype), {}
