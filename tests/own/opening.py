"""A conversion of a local file as far as its source model, without what is computed for the gate meanwhile."""

from unittest import mock

import jax
import numpy as np
import torch  # noqa: F401  # before any time is taken
from flax import linen  # noqa: F401

from utils.conversion import Conversion
from utils.settings import Settings


def opened(path, variant="own", family=None, **settings):
    """The conversion after `load`; leaves nothing behind."""
    settings = {"checkpoint": str(path), "output_dir": str(path.parent / "exports")} | settings
    conversion = Conversion(Settings(variant, **settings), family)
    conversion.check()
    with mock.patch.object(Conversion, "_begin", create=True):
        conversion.load()
    conversion._staging.discard()
    return conversion


def assert_computes(conversion, inputs, outputs):
    """To float64's rounding: weights and inputs are the very same numbers."""
    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes most of the time
    try:
        found = conversion.source.outputs(inputs, "float64")["logits"]
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert found.shape == outputs.shape
    assert np.abs(found - outputs).max() <= 1e-6 * np.abs(outputs).max()
