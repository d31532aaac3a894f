"""Random weights: matrices by their fan-in, maps about 1."""

import numpy as np

from resmlp.layout import shapes
from utils.families.random_arrays import around_one, stream


def arrays(architecture, seed):
    for key, shape in shapes(architecture).items():
        normal = stream(seed, key)(shape)
        if len(shape) > 1:
            normal *= np.float32(np.prod(shape[1:]) ** -0.5)
        yield key, around_one(normal) if key.endswith(("alpha", "scale1", "scale2")) else normal
