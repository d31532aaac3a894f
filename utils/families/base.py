"""What a family of models is: the facts and the functions that every other room asks a family for.

A family is one `Family` in `FAMILIES` and one folder. Its facts are here without any framework; its models are in a
module that is imported when a model is built, since that imports PyTorch, JAX or TensorFlow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import keras
    import numpy as np
    import onnx

    from utils.export.function import ExportedFunction
    from utils.parity.proof import Source

Weights = Mapping[str, "np.ndarray"]  # by canonical key, as `checkpoints.loading` gives them


class Export(NamedTuple):
    """A TensorFlow function, and what the way to it shows a reader, by title."""

    function: ExportedFunction
    facts: dict[str, str]


class Models(Protocol):
    """The module `Family.module`: a family's models, in their own framework and in others."""

    def build(self, architecture: Any, weights: Weights, head: str) -> Source:
        """The source model with `weights`; CheckpointError where they do not fit."""

    def predictor(self, architecture: Any, weights: Weights) -> Any:
        """The classifier as a function of float32 [B, H, W, 3] -> float32 [B, classes], as fast as its framework is."""

    def export(self, source: Source, weights: Weights, image_size: int, operations: str) -> Export:
        """The source model as a TensorFlow function with variables; image_size: 0 for any."""

    def keras_model(self, architecture: Any, weights: Weights, head: str, image_size: int) -> keras.Model:
        """The same model of Keras's own layers; CheckpointError where the weights do not fit."""

    def onnx_graph(self, source: Source) -> onnx.ModelProto:
        """The graph of the distributed .onnx file, channels first; for a family whose `formats` have "onnx"."""


@dataclass(frozen=True)
class Family:
    """The facts of a family.

    title: its name, for people. framework: the source models'. packages: that framework's distributions. libraries:
    all distributions whose versions a manifest records. notebook: the one that converts it. formats: files that can be
    written beside a SavedModel. operations: what a SavedModel can be made of, the default first. any_size: a model
    takes images of any height and width. has_average: a trainer's file may hold a moving average of the weights.
    gelu: the form of GELU, "erf" or "tanh". head_keys: weight and bias of the classifier. crop: share of the shorter
    side that is kept. mean, std: in levels of 0 to 255. licence, licence_url, upstream_url: of the official weights.
    """

    name: str
    title: str
    framework: str
    packages: tuple[str, ...]
    libraries: tuple[str, ...]
    notebook: str
    module: str
    formats: tuple[str, ...]
    operations: tuple[str, ...]
    any_size: bool
    has_average: bool
    gelu: str
    head_keys: tuple[str, str]
    crop: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    licence_url: str
    upstream_url: str

    @property
    def models(self) -> Models:
        """The family's models; importing them imports its framework."""
        return importlib.import_module(self.module)  # type: ignore[return-value]
