"""Tiny models as people define and train them, under any names, and what the very model computes in float64.

PyTorch's models compute what they save; the authors' Flax names have a definition in NumPy. Nothing here uses `utils`
but the two dataclasses of sizes.
"""

import copy
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import optax
import torch
from flax import serialization
from flax.traverse_util import unflatten_dict
from safetensors.torch import save_file
from torch import nn

from utils.families.convmixer import ConvMixerArchitecture
from utils.families.mlp_mixer import MixerArchitecture


@dataclass(frozen=True)
class Own:
    """A model of one's own.

    Attributes:
        content: what is saved: of PyTorch any object, of an .npz arrays by name, of a msgpack file its bytes.
        inputs: float32 [B, H, W, channels].
        outputs: the logits, float64.
        sizes: what the reader must find.
        settings: parameters that a maker who knows the model gives.
        noted: names in the file that a note must have.
    """

    content: Any
    inputs: np.ndarray
    outputs: np.ndarray
    sizes: ConvMixerArchitecture | MixerArchitecture
    settings: dict = field(default_factory=dict)
    noted: tuple[str, ...] = ()

    def save(self, folder: Path, kind: str) -> Path:
        """In a file named `own` that has no further dot."""
        if kind == "msgpack":  # as Flax's trainers name it
            (folder / "checkpoint_12").write_bytes(self.content)
            return folder / "checkpoint_12"
        path = folder / f"own.{kind}"
        if kind == "npz":
            np.savez(path, **{key: np.asarray(self.content[key]) for key in sorted(self.content)})
        elif kind == "safetensors":
            save_file({key: value.contiguous() for key, value in self.content.items()}, path)
        else:
            torch.save(self.content, path)
        return path


def images(*shape, seed=9):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


# Names: dotted paths by part, in the order in which the modules are registered; {} is the block's number.

TIMM = {"stem": "stem.0", "stem_norm": "stem.2", "depthwise": "blocks.{}.0.fn.0", "norm1": "blocks.{}.0.fn.2",
        "pointwise": "blocks.{}.1", "norm2": "blocks.{}.3", "head": "head"}  # fmt: skip
UNITS = {"stem": "stem.0", "stem_norm": "stem.2", "depthwise": "blocks.{}.spatial.0", "norm1": "blocks.{}.spatial.2",
         "pointwise": "blocks.{}.mix.0", "norm2": "blocks.{}.mix.2", "head": "classifier"}  # fmt: skip
LAYERS = {"head": "fc", "stem": "patch_embed.proj", "stem_norm": "patch_embed.bn", "depthwise": "layers.{}.depth_conv",
          "norm1": "layers.{}.depth_bn", "pointwise": "layers.{}.point_conv",
          "norm2": "layers.{}.point_bn"}  # fmt: skip
NORMS_LAST = {"stem": "patch", "stem_norm": "patch_bn", "depthwise": "body.{}.dw", "pointwise": "body.{}.pw",
              "norm1": "body.{}.bn1", "norm2": "body.{}.bn2", "head": "out.1"}  # fmt: skip
LISTS = {"stem": "embed", "stem_norm": "embed_norm", "depthwise": "dws.{}", "norm1": "dw_norms.{}",
         "pointwise": "pws.{}", "norm2": "pw_norms.{}", "head": "head"}  # fmt: skip
APART = {"stem": "backbone.0", "stem_norm": "backbone.2", "depthwise": "backbone.3.{}.0.fn.0",
         "norm1": "backbone.3.{}.0.fn.2", "pointwise": "backbone.3.{}.1", "norm2": "backbone.3.{}.3",
         "head": "probe"}  # fmt: skip

TIMM_MIXER = {"stem": "stem.proj", "norm1": "blocks.{}.norm1", "tokens1": "blocks.{}.mlp_tokens.fc1",
              "tokens2": "blocks.{}.mlp_tokens.fc2", "norm2": "blocks.{}.norm2",
              "channels1": "blocks.{}.mlp_channels.fc1", "channels2": "blocks.{}.mlp_channels.fc2", "norm": "norm",
              "head": "head"}  # fmt: skip
PRE_NORM = {"stem": "to_patches.0", "norm1": "mixers.{}.tokens.norm", "tokens1": "mixers.{}.tokens.fn.0",
            "tokens2": "mixers.{}.tokens.fn.3", "norm2": "mixers.{}.channels.norm",
            "channels1": "mixers.{}.channels.fn.0", "channels2": "mixers.{}.channels.fn.3", "norm": "last",
            "head": "to_logits.1"}  # fmt: skip
LAYERS_MIXER = {"stem": "patch_embedding", "norm1": "mixer_layers.{}.norm_token",
                "tokens1": "mixer_layers.{}.token_mlp.0", "tokens2": "mixer_layers.{}.token_mlp.2",
                "norm2": "mixer_layers.{}.norm_channel", "channels1": "mixer_layers.{}.channel_mlp.0",
                "channels2": "mixer_layers.{}.channel_mlp.2", "norm": "final_norm", "head": "fc"}  # fmt: skip
# In order of their names the second norm comes first, and nothing in them tells which is whose.
SWAPPABLE = LAYERS_MIXER | {"norm1": "mixer_layers.{}.pre", "norm2": "mixer_layers.{}.mid"}


class Named(nn.Module):
    """Modules of `make` by part under `names`; in the file block by block, or list by list."""

    def __init__(self, names, make, blocks, lists=False):
        super().__init__()
        self.names = names
        repeated = [part for part in names if "{}" in names[part]]
        rows = [(part, i) for i in range(blocks) for part in repeated]
        if lists:
            rows = [(part, i) for part in repeated for i in range(blocks)]
        first = list(names).index(repeated[0])
        once = [(part, None) for part in names if part not in repeated]
        for part, i in (*once[:first], *rows, *once[first:]):
            *folders, name = names[part].format(i).split(".")
            parent = self
            for folder in folders:
                if not hasattr(parent, folder):
                    parent.add_module(folder, nn.Module())
                parent = getattr(parent, folder)
            parent.add_module(name, make[part]())

    def part(self, name, i=None):
        return self.get_submodule(self.names[name].format(i))


class NamedConvMixer(Named):
    def __init__(self, names, a, lists=False):
        norm = lambda: nn.BatchNorm2d(a.dim, eps=a.batch_norm_epsilon)  # noqa: E731
        make = {"stem": lambda: nn.Conv2d(a.channels, a.dim, a.patch_size, a.patch_size), "stem_norm": norm,
                "depthwise": lambda: depthwise(a), "norm1": norm, "pointwise": lambda: nn.Conv2d(a.dim, a.dim, 1),
                "norm2": norm, "head": lambda: nn.Linear(a.dim, a.classes)}  # fmt: skip
        super().__init__(names, make, a.depth, lists)
        self.act, self.depth = ACTIVATIONS[a.activation](), a.depth

    def forward(self, x):
        x = self.part("stem_norm")(self.act(self.part("stem")(x)))
        for i in range(self.depth):
            x = x + self.part("norm1", i)(self.act(self.part("depthwise", i)(x)))
            x = self.part("norm2", i)(self.act(self.part("pointwise", i)(x)))
        return self.part("head")(x.mean((2, 3)))


class NamedMixer(Named):
    def __init__(self, names, a, lists=False):
        norm = lambda: nn.LayerNorm(a.hidden_dim, eps=a.layer_norm_epsilon)  # noqa: E731
        dense = lambda *sizes: lambda: nn.Linear(*sizes)  # noqa: E731
        make = {"stem": lambda: nn.Conv2d(a.channels, a.hidden_dim, a.patch_size, a.patch_size),
                "norm1": norm, "tokens1": dense(a.tokens, a.tokens_mlp_dim),
                "tokens2": dense(a.tokens_mlp_dim, a.tokens), "norm2": norm,
                "channels1": dense(a.hidden_dim, a.channels_mlp_dim),
                "channels2": dense(a.channels_mlp_dim, a.hidden_dim), "norm": norm,
                "head": dense(a.hidden_dim, a.classes)}  # fmt: skip
        super().__init__(names, make, a.blocks, lists)
        self.act, self.blocks_count = ACTIVATIONS[a.activation](), a.blocks

    def forward(self, x):
        x = self.part("stem")(x).flatten(2).transpose(1, 2)
        for i in range(self.blocks_count):
            y = self.part("norm1", i)(x).transpose(1, 2)
            x = x + self.part("tokens2", i)(self.act(self.part("tokens1", i)(y))).transpose(1, 2)
            y = self.part("norm2", i)(x)
            x = x + self.part("channels2", i)(self.act(self.part("channels1", i)(y)))
        return self.part("head")(self.part("norm")(x).mean(1))


ACTIVATIONS = {"gelu": nn.GELU, "gelu_tanh": lambda: nn.GELU("tanh"), "relu": nn.ReLU}


def depthwise(a):
    return nn.Conv2d(a.dim, a.dim, a.kernel_size, groups=a.dim, padding="same")


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


def unit(convolution, a):
    return convolution, ACTIVATIONS[a.activation](), nn.BatchNorm2d(a.dim, eps=a.batch_norm_epsilon)


def paper(a, flat=False):
    """The paper's definition, one nn.Sequential; flat: its blocks are no Sequentials of their own."""
    stem = unit(nn.Conv2d(a.channels, a.dim, a.patch_size, a.patch_size), a)
    blocks = [
        (Residual(nn.Sequential(*unit(depthwise(a), a))), *unit(nn.Conv2d(a.dim, a.dim, 1), a)) for _ in range(a.depth)
    ]
    blocks = [module for block in blocks for module in block] if flat else [nn.Sequential(*block) for block in blocks]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(a.dim, a.classes))


class Patches(nn.Module):
    """einops' Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)")."""

    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // self.patch, self.patch, w // self.patch, self.patch)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, self.patch**2 * c)


class PreNormResidual(nn.Module):
    def __init__(self, dim, fn):
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        return self.fn(self.norm(x)) + x


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def package(a):
    """mlp-mixer-pytorch, the package that most people use: https://github.com/lucidrains/mlp-mixer-pytorch."""

    def feed_forward(dim, inner, dense):
        return nn.Sequential(dense(dim, inner), nn.GELU(), nn.Dropout(0.1), dense(inner, dim), nn.Dropout(0.1))

    conv1d = lambda n, m: nn.Conv1d(n, m, kernel_size=1)  # noqa: E731
    blocks = [
        nn.Sequential(
            PreNormResidual(a.hidden_dim, feed_forward(a.tokens, a.tokens_mlp_dim, conv1d)),
            PreNormResidual(a.hidden_dim, feed_forward(a.hidden_dim, a.channels_mlp_dim, nn.Linear)),
        )
        for _ in range(a.blocks)
    ]
    embedding = nn.Linear(a.patch_size**2 * a.channels, a.hidden_dim)
    end = nn.LayerNorm(a.hidden_dim), Mean(), nn.Linear(a.hidden_dim, a.classes)
    return nn.Sequential(Patches(a.patch_size), embedding, *blocks, *end)


def trained(model, seed, gain=0.1):
    """Every number random. Streams and variances are small, so that epsilon shows, yet GELU's two forms differ."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif tensor.ndim > 1:
            tensor.copy_(noise * (gain / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_var"):
            tensor.copy_(0.25 + 0.2 * noise.abs())
        else:
            tensor.copy_(0.1 * noise + name.endswith("weight"))
    return model


def computed(model, inputs):
    model = copy.deepcopy(model).double().eval()
    with torch.inference_mode():
        return model(torch.from_numpy(inputs).double().permute(0, 3, 1, 2)).numpy()


# What a definition becomes in a file.


def under(key, **beside):
    return lambda state: {"epoch": 3, key: dict(state), **beside}


def prefixed(prefix, before=None, **after):
    return lambda state: (before or {}) | {prefix + key: value for key, value in state.items()} | after


def optimiser(state):
    """Adam's, after a step."""
    moments = {i: {"step": torch.tensor(1.0), "exp_avg": value, "exp_avg_sq": value} for i, value in enumerate(state)}
    return {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}


def profiled(state):
    """What thop.profile leaves: two buffers at every module, containers too."""
    found = dict(state)
    modules = {"".join(f"{part}." for part in key.split(".")[:n]) for key in state for n in range(key.count(".") + 1)}
    for module in sorted(modules):
        found |= {f"{module}total_{what}": torch.zeros(1, dtype=torch.float64) for what in ("ops", "params")}
    return found


def uncounted(state):
    """As before PyTorch 0.4.1."""
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def convmixer(names=paper, *, wrap=dict, size=(16, 20), noted=(), seed=0, epsilon=1e-5, lists=False, **sizes):
    """names: `paper`, or those of a `NamedConvMixer`. sizes: those that differ from the ones here."""
    a = {"dim": 12, "depth": 2, "kernel_size": 3, "patch_size": 4, "activation": "gelu", "classes": 5, "channels": 3}
    a = ConvMixerArchitecture(batch_norm_epsilon=epsilon, **a | sizes)
    model = trained(names(a) if callable(names) else NamedConvMixer(names, a, lists), seed, 0.5)
    inputs = images(*size, a.channels)
    settings = {"image_size": size[0]}
    settings |= {"activation": a.activation} if a.activation != "gelu" else {}
    settings |= {"epsilon": epsilon} if epsilon != 1e-5 else {}
    return Own(wrap(model.state_dict()), inputs, computed(model, inputs), a, settings, noted)


def mixer(names=LAYERS_MIXER, *, wrap=dict, noted=(), seed=0, settings=None, lists=False, **sizes):
    """names: `package`, or those of a `NamedMixer`. sizes: those that differ from the ones here."""
    a = {"patch_size": 4, "hidden_dim": 12, "blocks": 2, "tokens_mlp_dim": 10, "channels_mlp_dim": 20, "classes": 5,
         "image_size": 16, "layer_norm_epsilon": 1e-6 if names is TIMM_MIXER else 1e-5,
         "activation": "gelu"}  # fmt: skip
    a = MixerArchitecture(**a | sizes)
    model = trained(names(a) if callable(names) else NamedMixer(names, a, lists), seed)
    inputs = images(a.image_size, a.image_size, a.channels)
    return Own(wrap(model.state_dict()), inputs, computed(model, inputs), a, settings or {}, noted)


def several(make, keys, taken, joined=False, **settings):
    """Sets of weights of one model under `keys`, of which one is to be taken; joined: in one mapping, by prefix."""
    sets = [make(seed=seed) for seed in range(len(keys))]
    content = {key: each.content for key, each in zip(keys, sets, strict=True)}
    if joined:
        content = {f"{key}.{name}": value for key, state in content.items() for name, value in state.items()}
    return replace(sets[taken], content=content, settings=sets[taken].settings | settings)


# The authors' Mixer, in Flax's names.


def flax_parameters(a, seed=0):
    draw = np.random.default_rng(seed)

    def dense(name, *shape):
        weights = draw.normal(size=shape) * np.sqrt(0.1 / math.prod(shape[:-1]))
        return {f"{name}/kernel": weights, f"{name}/bias": 0.1 * draw.normal(size=shape[-1])}

    def norm(name):
        scale, bias = 0.2 * draw.normal(size=(2, a.hidden_dim))
        return {f"{name}/scale": 1 + scale, f"{name}/bias": bias}

    found = dense("stem", a.patch_size, a.patch_size, a.channels, a.hidden_dim)
    for block in (f"MixerBlock_{i}" for i in range(a.blocks)):
        found |= norm(f"{block}/LayerNorm_0") | norm(f"{block}/LayerNorm_1")
        for mlp, width, inner in (
            ("token_mixing", a.tokens, a.tokens_mlp_dim),
            ("channel_mixing", a.hidden_dim, a.channels_mlp_dim),
        ):
            found |= dense(f"{block}/{mlp}/Dense_0", width, inner) | dense(f"{block}/{mlp}/Dense_1", inner, width)
    found |= norm("pre_head_layer_norm") | dense("head", a.hidden_dim, a.classes)
    return {key: array.astype(np.float32) for key, array in found.items()}


def flax_logits(parameters, inputs, a):
    p = {key: np.asarray(array, np.float64) for key, array in parameters.items()}
    erf = np.vectorize(math.erf)

    def gelu(x):
        inner = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)) if a.activation == "gelu_tanh" else erf(x / 2**0.5)
        return x * (1 + inner) / 2

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + a.layer_norm_epsilon)
        return x * p[f"{name}/scale"] + p[f"{name}/bias"]

    def dense(x, name):
        return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]

    def mlp(x, name):
        return dense(gelu(dense(x, f"{name}/Dense_0")), f"{name}/Dense_1")

    n = a.image_size // a.patch_size
    x = inputs.astype(np.float64).reshape(len(inputs), n, a.patch_size, n, a.patch_size, a.channels)
    x = np.einsum("bhiwjc,ijcd->bhwd", x, p["stem/kernel"]) + p["stem/bias"]
    x = x.reshape(len(inputs), n * n, a.hidden_dim)
    for block in (f"MixerBlock_{i}" for i in range(a.blocks)):
        y = norm(x, f"{block}/LayerNorm_0").swapaxes(1, 2)
        x = x + mlp(y, f"{block}/token_mixing").swapaxes(1, 2)
        x = x + mlp(norm(x, f"{block}/LayerNorm_1"), f"{block}/channel_mixing")
    return dense(norm(x, "pre_head_layer_norm").mean(1), "head")


def flax_mixer(wrap=dict, *, dtype=np.float32, activation="gelu_tanh", noted=(), seed=0, **sizes):
    """wrap: from parameters by flat name to what is saved."""
    a = MixerArchitecture(4, 12, 2, 10, 20, 5, 16, activation=activation, **sizes)
    parameters = {key: array.astype(dtype) for key, array in flax_parameters(a, seed).items()}
    inputs = images(16, 16, 3)
    settings = {} if activation == "gelu_tanh" else {"activation": activation}
    return Own(wrap(parameters), inputs, flax_logits(parameters, inputs, a), a, settings, noted)


BFLOAT16 = ml_dtypes.bfloat16


def tree(parameters):
    return unflatten_dict(parameters, sep="/")


def momentum(parameters):
    """The state of vision_transformer's optimiser: gradients clipped, then SGD by a schedule, momentum in bfloat16."""
    trace = tree({key: array.astype(BFLOAT16) for key, array in parameters.items()})
    return optax.EmptyState(), (optax.TraceState(trace), optax.ScaleByScheduleState(np.int32(12)))


def flax_tuple(parameters):
    """What vision_transformer's trainer gives to flax.training.checkpoints.save_checkpoint, and that to a file."""
    return serialization.to_bytes((tree(parameters), momentum(parameters), 12))


def flax_state(parameters):
    """A TrainState's fields."""
    state = {"step": 12, "params": tree(parameters), "opt_state": momentum(parameters)}
    return serialization.to_bytes(state)


def big_vision(parameters):
    """What big_vision writes: parameters, and Adam's moments under the same names."""
    opt = {f"opt/0/{moment}/{key}": value for moment in ("mu", "nu") for key, value in parameters.items()}
    return {f"params/{key}": value for key, value in parameters.items()} | opt | {"opt/0/count": np.int32(5)}


def older_optimizer(parameters):
    """flax.optim's Optimizer, before optax."""
    state = {f"opt/state/param_states/{key}/momentum": value for key, value in parameters.items()}
    return {f"opt/target/{key}": value for key, value in parameters.items()} | state | {"opt/state/step": np.int32(5)}
