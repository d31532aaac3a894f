"""ConvMixer: PyTorch checkpoints. What is this family's alone."""

from dataclasses import dataclass

from utils.families.base import Family, Patches


@dataclass(frozen=True)
class ConvMixerArchitecture(Patches):
    """Sizes of a ConvMixer; `activation` is one of `base.ACTIVATIONS`, `channels` are the image's."""

    EPSILON = "batch_norm_epsilon"
    WIDTH = "dim"

    dim: int
    depth: int
    kernel_size: int
    patch_size: int
    activation: str
    classes: int
    batch_norm_epsilon: float = 1e-5  # PyTorch's default, which the upstream definition leaves as it is
    channels: int = 3


FAMILY = Family(
    name="convmixer",
    title="ConvMixer",
    libraries=("python", "torch", "onnx", "onnx-tf", "tensorflow", "tensorflow-hub", "tf_keras", "numpy"),
    notebook="conversion_convmixer.ipynb",
    package="utils.families.convmixer",
    architecture=ConvMixerArchitecture,
    formats=("keras", "onnx"),
    any_size=True,
    hub_architecture="cnn",  # the list of tags has no ConvMixer, and it is one of convolutions
    crop=0.96,  # timm's `_cfg`, which also has ImageNet's mean and deviation
    licence="MIT",
    licence_url="https://github.com/locuslab/convmixer/blob/main/LICENSE",
    upstream_url="https://github.com/locuslab/convmixer",
)
