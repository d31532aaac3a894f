"""ConvMixer: PyTorch checkpoints. What is this family's alone."""

from utils.families.base import Family

FAMILY = Family(
    name="convmixer",
    title="ConvMixer",
    framework="PyTorch",
    packages=("torch",),
    libraries=("python", "torch", "onnx", "onnx-tf", "tensorflow", "tensorflow-hub", "tf_keras", "numpy"),
    notebook="conversion_convmixer.ipynb",
    package="utils.families.convmixer",
    npz=False,
    synthetic_layout="timm",
    formats=("keras", "onnx"),
    operations=("xla",),
    any_size=True,
    has_average=True,
    hub_architecture="cnn",  # the list of tags has no ConvMixer, and it is one of convolutions
    gelu="erf",
    head_keys=("head.weight", "head.bias"),
    head_axis=0,
    # timm's `_cfg`: crop_pct 0.96, bicubic, IMAGENET_DEFAULT_MEAN and _STD (there in [0, 1]).
    crop=0.96,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    licence="MIT",
    licence_url="https://github.com/locuslab/convmixer/blob/main/LICENSE",
    upstream_url="https://github.com/locuslab/convmixer",
)
