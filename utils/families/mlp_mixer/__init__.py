"""MLP-Mixer: JAX checkpoints. What is this family's alone."""

from utils.families.base import Family

FAMILY = Family(
    name="mixer",
    title="MLP-Mixer",
    framework="JAX",
    packages=("jax", "flax"),
    libraries=("python", "jax", "jaxlib", "flax", "tensorflow", "tensorflow-hub", "tf_keras", "numpy"),
    notebook="conversion_mlpmixer.ipynb",
    package="utils.families.mlp_mixer",
    suffix=".npz",
    formats=("keras",),
    operations=("xla", "plain"),
    has_average=False,
    hub_architecture="mixer",
    gelu="tanh",
    head_keys=("head/kernel", "head/bias"),
    # vision_transformer scales pixels to [-1, 1]; 0.875 is the central fraction of Inception-style evaluation.
    crop=0.875,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    licence="Apache-2.0",
    licence_url="https://github.com/google-research/vision_transformer/blob/main/LICENSE",
    upstream_url="https://github.com/google-research/vision_transformer",
)
