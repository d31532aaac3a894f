"""ConvMixer: PyTorch checkpoints. What is this family's alone."""

from utils.families.base import Family

FAMILY = Family(
    name="convmixer",
    title="ConvMixer",
    libraries=("python", "torch", "onnx", "onnx-tf", "tensorflow", "tensorflow-hub", "tf_keras", "numpy"),
    notebook="conversion_convmixer.ipynb",
    package="utils.families.convmixer",
    formats=("keras", "onnx"),
    any_size=True,
    hub_architecture="cnn",  # the list of tags has no ConvMixer, and it is one of convolutions
    crop=0.96,  # timm's `_cfg`, which also has ImageNet's mean and deviation
    licence="MIT",
    licence_url="https://github.com/locuslab/convmixer/blob/main/LICENSE",
    upstream_url="https://github.com/locuslab/convmixer",
)
