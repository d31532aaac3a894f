"""ConvMixer in PyTorch, as the official checkpoints define it: the source that every export is compared to.

Paper: "Patches Are All You Need?", https://arxiv.org/abs/2201.09792. The attribute names are those of the
`timm` key layout, so a checked state dict loads without renaming.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from utils.errors import CheckpointError, ParameterError
from utils.families.base import tapped_blocks
from utils.families.variants import HEADS, ConvMixerArchitecture

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,  # exact, by erf
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}


class Residual(nn.Module):
    """`fn(x) + x`."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.fn(x) + x


def convolution_unit(convolution: nn.Conv2d, architecture: ConvMixerArchitecture) -> nn.Sequential:
    """A convolution, the activation, then BatchNorm: ConvMixer normalises *after* the activation."""
    return nn.Sequential(
        convolution,
        ACTIVATIONS[architecture.activation](),
        nn.BatchNorm2d(architecture.dim, eps=architecture.batch_norm_epsilon),
    )


class ConvMixer(nn.Module):
    """Patch embedding, `depth` blocks of depthwise (space) and pointwise (channel) mixing, pooling, linear head.

    Takes float32 [B, channels, H, W], normalised; gives logits [B, classes], or for the head "fe" the pooled
    features [B, dim]. Raises ParameterError for a head that does not exist.
    """

    def __init__(self, architecture: ConvMixerArchitecture, head: str = "classification") -> None:
        super().__init__()
        if head not in HEADS:
            raise ParameterError(f"head is {head!r}; expected one of {', '.join(HEADS)}")
        a = architecture
        self.stem = convolution_unit(nn.Conv2d(a.channels, a.dim, a.patch_size, stride=a.patch_size), a)
        self.blocks = nn.Sequential(
            *[
                nn.Sequential(
                    Residual(convolution_unit(nn.Conv2d(a.dim, a.dim, a.kernel_size, groups=a.dim, padding="same"), a)),
                    *convolution_unit(nn.Conv2d(a.dim, a.dim, 1), a),
                )
                for _ in range(a.depth)
            ]
        )
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(a.dim, a.classes) if head == "classification" else nn.Identity()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Float32 [B, channels, H, W] -> what the head is given, float32 [B, dim]."""
        return self.pooling(self.blocks(self.stem(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return self.head(self.features(x))


def build_convmixer(
    architecture: ConvMixerArchitecture, weights: Mapping[str, np.ndarray], head: str = "classification"
) -> ConvMixer:
    """A ConvMixer in evaluation mode with `weights`, canonical names as `checkpoints.loading` gives them.

    The arrays become the parameters without a copy where they are writable. For the head "fe" the entries
    `head.weight` and `head.bias` are left out, by name; any other missing, extra or misshapen entry raises
    CheckpointError.
    """
    # PyTorch's hint that it copies the input for an even kernel: the numbers are right. Not set on import, which
    # `quiet_imports` may surround: it forgets filters.
    warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
    with torch.device("meta"):  # no time or memory for an initialisation that would be overwritten
        model = ConvMixer(architecture, head)
    dropped = {"head.weight", "head.bias"} if head == "fe" else set()
    writable = {name: a if a.flags.writeable else a.copy() for name, a in weights.items() if name not in dropped}
    state = {name: torch.from_numpy(array) for name, array in writable.items()}
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit this ConvMixer ({architecture}): {error}") from error
    return model.eval()


def padded_left_and_above(model: ConvMixer) -> ConvMixer:
    """A copy whose even kernels pad one more to the left and above; PyTorch's "same" does it right and below."""
    model = copy.deepcopy(model)
    for convolution in model.modules():
        if isinstance(convolution, nn.Conv2d) and convolution.padding == "same":
            size, convolution.padding = convolution.kernel_size[0], 0
            padding = nn.ZeroPad2d((size // 2, (size - 1) // 2) * 2)
            convolution.register_forward_pre_hook(lambda _, inputs, padding=padding: padding(*inputs))
    return model


def as_nhwc(model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """The model as a function of float32 NHWC arrays, to compare with an export of the same interface."""

    def call(inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(_nchw(inputs, model)).numpy()

    return call


class ReferenceModel:
    """The model in float32, and with the very same weights in float64; methods as `utils.parity.proof` asks for them.

    No method changes the model: training and probing use a copy.
    """

    framework, one_core, has_kinks, has_statistics, shares_gradients = "PyTorch", True, True, True, False
    has_maps = True

    def __init__(self, model: ConvMixer) -> None:
        self.model, self.output = model, "features" if isinstance(model.head, nn.Identity) else "logits"
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._models = {"float32": model, "float64": copy.deepcopy(model).double()}

    def variables(self) -> dict[str, np.ndarray]:
        """Parameters and moving statistics, in PyTorch's axis order."""
        return _floats(self._models["float32"].state_dict().items())

    @staticmethod
    def probe_factor(name: str) -> float:
        """By what a parameter or statistic is multiplied so that each BatchNorm's epsilon decides what comes out of it.

        Whether another epsilon shows otherwise depends on the checkpoint: at variances of 1000 it is lost in rounding.
        """
        if name.endswith("running_var"):
            return 2.0**-20
        return 2.0**-10 if re.search(r"(stem\.2|fn\.2|blocks\.\d+\.3)\.weight$", name) else 1.0

    def outputs(self, inputs: np.ndarray, dtype: str, probed: bool = False) -> dict[str, np.ndarray]:
        """`features` and, of a classifier, `logits`, by one run."""
        model = self._models[dtype]
        if probed:
            model = copy.deepcopy(model)
            with torch.no_grad():
                for name, tensor in model.state_dict().items():
                    if (factor := self.probe_factor(name)) != 1:
                        tensor.mul_(factor)
        return _outputs(model, inputs)

    def maps(self, inputs: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """What comes out of the stem and of `tapped_blocks`, [B, h, w, dim] by name."""
        model = self._models[dtype]
        # Layer by layer: hooks would also see what another thread runs the model on.
        with torch.inference_mode(), _one_thread():
            found = {"stem": model.stem(_nchw(inputs, model))}
            blocks, x = tapped_blocks(len(model.blocks)), found["stem"]
            for index, block in enumerate(model.blocks):
                x = block(x)
                found |= {name: x for name, tapped in blocks.items() if tapped == index}
        return {name: x.permute(0, 2, 3, 1).numpy() for name, x in found.items()}

    def gradients(self, inputs: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
        """In PyTorch's axis order, by parameter name."""
        model = self._models[dtype]
        names, parameters = zip(*model.named_parameters(), strict=True)
        with _one_thread():
            loss = (model(_nchw(inputs, model)) ** 2).sum() / len(inputs)
            found = torch.autograd.grad(loss, parameters)
        return {name: gradient.numpy() for name, gradient in zip(names, found, strict=True)}

    def training_pass(self, inputs: np.ndarray, dtype: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The outputs, and the BatchNorm statistics by name."""
        trained = copy.deepcopy(self._models[dtype]).train()
        return _outputs(trained, inputs), _floats(trained.named_buffers())

    @staticmethod
    def merge_vanishing_gradients(gradients: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """The same: none vanishes."""
        return dict(gradients)


def _outputs(model: ConvMixer, inputs: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode(), _one_thread():
        features = model.features(_nchw(inputs, model))
        found = {"features": features}
        if not isinstance(model.head, nn.Identity):
            found["logits"] = model.head(features)
    return {name: tensor.numpy() for name, tensor in found.items()}


def _floats(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Without the counters of batches."""
    return {name: tensor.numpy() for name, tensor in tensors if tensor.is_floating_point()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """For what runs beside TensorFlow, on a core of its own.

    In float64 PyTorch convolves depthwise in as many tiny steps as there are channels, and brings its threads together
    at each: where another program wants the same cores, two threads take up to fifty times as long as one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _nchw(inputs: np.ndarray, model: nn.Module) -> torch.Tensor:
    # permute moves the channels and keeps height before width; the tempting transpose(1, 3) would swap them.
    images = torch.from_numpy(inputs).permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
    # In float64 PyTorch convolves depthwise one channel after the other: six times slower when they lie scattered.
    return images.contiguous() if images.dtype == torch.float64 else images
