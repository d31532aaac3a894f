"""What a family of models is: the facts and the functions that every other room asks a family for.

A family is one `Family` in `FAMILIES` and one package with the modules `layout`, `synthetic` and `models`. They are
imported when they are asked for: `models` imports PyTorch, JAX or TensorFlow.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np
    import onnx

    from utils.export.function import ExportedFunction
    from utils.families.modules import Module
    from utils.families.recipe import Recipe
    from utils.parity.proof import ReferenceModel

COUNTER = "num_batches_tracked"  # the one integer of a BatchNorm: a scalar int64
STATISTICS = ("running_mean", "running_var", COUNTER)  # of a BatchNorm: ends of the keys of what is not trained

GELU = ("gelu", "gelu_tanh")  # the exact one, by erf, and its approximation
ACTIVATIONS = (*GELU, "relu")

Shapes = dict[str, tuple[int, ...]]  # by canonical key
Header = tuple[tuple[int, ...], str]  # shape and dtype name, or what an entry is, if it is no dense tensor
Headers = Mapping[str, Header]  # by a file's own keys, in the file's order


class Place(NamedTuple):
    """Where an array lies in a file: its key there, the shape that it gets, then the order of its axes."""

    key: str
    shape: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None

    def shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What an array of this shape has in the end; one that cannot be so keeps its own."""
        if self.shape is not None:
            shape = self.shape if math.prod(shape) == math.prod(self.shape) else shape
        return tuple(shape[axis] for axis in self.axes) if self.axes and len(shape) == len(self.axes) else shape

    def of(self, array: np.ndarray) -> np.ndarray:
        """The array as the model has it; copied only where its axes are turned."""
        import numpy as np  # here: the plan of a release is made with nothing installed

        array = array if self.shape is None else array.reshape(self.shape)
        array = array.transpose(self.axes) if self.axes else array
        return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar one-dimensional


Places = dict[str, Place]  # by canonical key


class NoMatchError(Exception):
    """Why a file's entries are no model of a family: sentences for people, in the file's own names."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(" ".join(reasons))
        self.reasons = reasons


class Match(NamedTuple):
    """A model found by the form of a file's entries: the possible readings, of which all but one are wrong.

    open: whether it is a guess all the same, so that even a single reading wants a proof; why, in words.
    """

    readings: list[Places]
    open: str = ""


Weights = Mapping[str, "np.ndarray"]  # by canonical key, as `checkpoints.loading` gives them


class Patches:
    """An architecture that begins with square patches.

    EPSILON: the field of its normalisations' epsilon. WIDTH: that of the number of features.
    """

    EPSILON: ClassVar[str]
    WIDTH: ClassVar[str]
    patch_size: int

    def positions(self, height: int, width: int) -> int:
        """Number of patches of an image of that many pixels."""
        return (height // self.patch_size) * (width // self.patch_size)


def tapped_blocks(depth: int) -> dict[str, int]:
    """The blocks whose maps a feature extractor gives, by the map's name: the last one of each quarter of the depth.

    So the last block is always among them. Not all: a map of a large model has megabytes for each image.
    """
    return {f"block_{i}": i for i in sorted({math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)})}


@dataclass(frozen=True)
class KerasNames:
    """A family's checkpoint, as its Keras model has it.

    Layers have the checkpoint's names with a dash for each `separator`: a backend or another forbids slashes and dots.
    parts: the last part of a key by Keras's name of the variable. axes: by pattern of the key, the checkpoint's axes in
    Keras's order; those of other keys stay. A SavedModel's variables have that order too, but for axes of length one.
    """

    separator: str
    parts: Mapping[str, str]
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def key_of(self, path: str) -> str:
        """A variable's key by its path in Keras, such as `blocks-0-0-fn-2/gamma`."""
        layer, part = path.rsplit("/", 1)
        return f"{layer.replace('-', self.separator)}{self.separator}{self.parts.get(part, part)}"

    def to_export_layout(self, key: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint's array, or a gradient of it, in Keras's axis order; what has other axes is as it was."""
        axes = self._axes_of(key)
        return array if axes is None or array.ndim != len(axes) else array.transpose(axes)

    def to_checkpoint(self, key: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The checkpoint's array, of this shape, from a Keras model's or a SavedModel's; one that cannot be it stays.

        A SavedModel has a depthwise kernel's axis of length one elsewhere, which changes nothing else.
        """
        axes = self._axes_of(key) or tuple(range(len(shape)))
        turned = tuple(shape[axis] for axis in axes)
        if [size for size in array.shape if size != 1] != [size for size in turned if size != 1]:
            return array
        return array.reshape(turned).transpose(sorted(range(len(axes)), key=axes.__getitem__))

    def _axes_of(self, key: str) -> tuple[int, ...] | None:
        return next((axes for pattern, axes in self.axes.items() if re.fullmatch(pattern, key)), None)


class Export(NamedTuple):
    """A TensorFlow function, and what the way to it shows a reader, by title."""

    function: ExportedFunction
    facts: dict[str, str]


class Layout(Protocol):
    """The module `layout` of a family: its checkpoints' keys and shapes.

    MARKS: by the name of a layout, as a `Source` has it, sets of keys, any of which tells it. KERAS_NAMES: the
    checkpoint's names and axes in the Keras model; for a family whose `formats` have "keras".
    """

    MARKS: Mapping[str, tuple[frozenset[str], ...]]
    KERAS_NAMES: KerasNames

    def shapes(self, architecture: Any) -> Shapes:
        """Every canonical key with its shape, in the order of the data."""

    def places(self, layout: str, headers: Headers) -> Places:
        """Where a file of a known layout has what is the model's own; other entries are left out."""

    def match(self, modules: Sequence[Module]) -> Match:
        """The same of a file with any other names, by kind, form and order. Raises NoMatchError."""

    def architecture(self, shapes: Shapes) -> Any:
        """The sizes that these arrays have; NoMatchError for none. Without a head it has no classes, 0."""

    def trained_as(self, model: str) -> Recipe | None:
        """How timm trains the model that it calls so; None for one that it does not know by this family."""

    def assumed(self, layout: str) -> tuple[str, float]:
        """Activation and epsilon of models in a layout, as its framework has them; "" is any other PyTorch layout."""


class Synthetic(Protocol):
    """The module `synthetic` of a family: random weights that its models neither explode nor die with."""

    def arrays(self, architecture: Any, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Key by key, float32, counters int64; the same for the same seed."""


class Models(Protocol):
    """The module `models` of a family: its models, in their own framework and in others."""

    def build(self, architecture: Any, weights: Weights, head: str) -> ReferenceModel:
        """The source model with `weights`; CheckpointError where they do not fit."""

    def repadded(self, source: ReferenceModel) -> ReferenceModel:
        """The same model with the other padding of even kernels; for a family whose sizes have a `kernel_size`."""

    def predictor(self, architecture: Any, weights: Weights) -> Any:
        """The classifier as a function of float32 [B, H, W, C] -> float32 [B, classes], as fast as its framework is."""

    def export(self, source: ReferenceModel, weights: Weights, image_size: int, operations: str) -> Export:
        """The source model as a TensorFlow function with variables; with maps, if `source.has_maps` and head is "fe".

        Args:
            source: what `build` gave.
            weights: those that it was built with.
            image_size: of both sides, in pixels; 0 for any.
            operations: one of the family's.
        """

    def plain(self, architecture: Any, head: str, weights: Weights) -> ExportedFunction:
        """The model in TensorFlow's own operations; for a family whose `operations` have "plain"."""

    def keras_model(self, architecture: Any, weights: Weights, head: str, image_size: int) -> keras.Model:
        """The same model of Keras's own layers.

        Args:
            architecture: the variant's.
            weights: of the classifier, whatever the head.
            head: "classification" or "fe".
            image_size: of both sides, in pixels; 0 for any.

        Raises:
            CheckpointError: the weights do not fit.
        """

    def onnx_graph(self, source: ReferenceModel) -> onnx.ModelProto:
        """The graph of the distributed .onnx file, channels first; for a family whose `formats` have "onnx"."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The facts of a family.

    Attributes:
        title: its name, for people.
        framework: the source models'.
        packages: the framework's distributions.
        libraries: all distributions whose versions a manifest records.
        notebook: the one that converts it.
        package: the Python package of its modules `layout`, `synthetic` and `models`.
        architecture: a dataclass of the sizes, with `activation`, one of `ACTIVATIONS`, `channels` and `classes`.
        suffix: of the authors' checkpoints and of synthetic ones, ".pth.tar" or ".npz".
        formats: files that can be written beside a SavedModel.
        operations: what a SavedModel can be made of, the default first.
        any_size: whether a model takes images of any height and width.
        hub_architecture: TF Hub's tag `network-architecture`.
        head_keys: weight and bias of the classifier.
        crop: share of the shorter side that is kept.
        sgd_rate: the learning rate at which SGD with momentum fine-tunes pretrained weights, and the batch it is for.
        mean, std: by channel, in levels of 0 to 255; by default ImageNet's, as torchvision has them.
        licence, licence_url, upstream_url: of the official weights.
    """

    name: str
    title: str
    framework: str = "PyTorch"
    packages: tuple[str, ...] = ("torch",)
    libraries: tuple[str, ...]
    notebook: str
    package: str
    architecture: type[Patches]
    suffix: str = ".pth.tar"
    formats: tuple[str, ...] = ()
    operations: tuple[str, ...] = ("xla",)
    any_size: bool = False
    hub_architecture: str = "other"
    head_keys: tuple[str, str] = ("head.weight", "head.bias")
    crop: float = 0.875
    # Of MLP-Mixer's authors, vit_jax/configs/common.py of google-research/vision_transformer. ConvMixer's have none.
    sgd_rate: tuple[float, int] = (0.03, 512)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    licence: str
    licence_url: str
    upstream_url: str

    @property
    def layout(self) -> Layout:
        """The family's keys and shapes."""
        return importlib.import_module(f"{self.package}.layout")  # type: ignore[return-value]

    @property
    def synthetic(self) -> Synthetic:
        """The family's random weights."""
        return importlib.import_module(f"{self.package}.synthetic")  # type: ignore[return-value]

    @property
    def models(self) -> Models:
        """The family's models; importing them imports its framework."""
        return importlib.import_module(f"{self.package}.models")  # type: ignore[return-value]
