"""MLP-Mixer: JAX checkpoints. What is this family's alone."""

from dataclasses import dataclass

from utils.families.base import Family, Patches


@dataclass(frozen=True)
class MixerArchitecture(Patches):
    """Sizes of an MLP-Mixer, whose token mixing fixes `image_size`; `channels` are the image's."""

    EPSILON = "layer_norm_epsilon"

    patch_size: int
    hidden_dim: int
    blocks: int
    tokens_mlp_dim: int
    channels_mlp_dim: int
    classes: int
    image_size: int
    layer_norm_epsilon: float = 1e-6  # Flax's default, which the upstream definition leaves as it is
    activation: str = "gelu_tanh"  # Flax's default, with which the official weights were trained
    channels: int = 3

    @property
    def tokens(self) -> int:
        """Number of patches of an image."""
        return self.positions(self.image_size, self.image_size)


FAMILY = Family(
    name="mixer",
    title="MLP-Mixer",
    framework="JAX",
    packages=("jax", "flax"),
    libraries=("python", "jax", "jaxlib", "flax", "tensorflow", "tensorflow-hub", "tf_keras", "numpy"),
    notebook="conversion_mlpmixer.ipynb",
    package="utils.families.mlp_mixer",
    architecture=MixerArchitecture,
    suffix=".npz",
    formats=("keras",),
    operations=("xla", "plain"),
    hub_architecture="mixer",
    head_keys=("head/kernel", "head/bias"),
    # vision_transformer scales pixels to [-1, 1]; 0.875 is the central fraction of Inception-style evaluation.
    crop=0.875,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    licence="Apache-2.0",
    licence_url="https://github.com/google-research/vision_transformer/blob/main/LICENSE",
    upstream_url="https://github.com/google-research/vision_transformer",
)
