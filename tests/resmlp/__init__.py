"""A third family, as small as can be: ResMLP (https://arxiv.org/abs/2105.03404), affine maps instead of LayerNorm.

With its row it is all that a new family needs; `test_third_family.py` converts it.
"""

from dataclasses import dataclass, replace

from utils.families.base import Family, Patches
from utils.families.variants import get_variant


@dataclass(frozen=True)
class Architecture(Patches):
    patch_size: int
    dim: int
    depth: int
    classes: int
    image_size: int
    activation: str = "gelu"
    channels: int = 3
    EPSILON, WIDTH = "epsilon", "dim"

    @property
    def tokens(self):
        return self.positions(self.image_size, self.image_size)


FAMILY = Family(
    name="resmlp",
    title="ResMLP",
    libraries=("python", "torch", "tensorflow", "numpy"),
    notebook="none",
    package="resmlp",
    architecture=Architecture,
    licence="Apache-2.0",
    licence_url="https://github.com/facebookresearch/deit/blob/main/LICENSE",
    upstream_url="https://github.com/facebookresearch/deit",
)
ROW = replace(
    get_variant("mixer_tiny"),
    name="resmlp_tiny",
    family="resmlp",
    architecture=Architecture(patch_size=8, dim=16, depth=2, classes=10, image_size=48),
)
