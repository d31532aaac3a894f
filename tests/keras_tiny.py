"""The tiny models of the golden data in Keras 3, on its TensorFlow backend."""

from contextlib import nullcontext

import proofs
import tiny

from utils.families.convmixer import keras_model as convmixer
from utils.families.mlp_mixer import keras_model as mlp_mixer
from utils.families.variants import get_variant

GELU, RELU = tiny.NAMES
MIXER = "mixer_tiny"
NAMES = (GELU, RELU, MIXER)


def family(name):
    return get_variant(name).family


def built(name, head="classification", image_size=None, arrays=None, architecture=None, fault=None):
    """The Keras model; `fault` is there while it is built, and only then."""
    architecture = architecture or tiny.architecture(name)
    arrays = proofs.weights(name) if arrays is None else arrays
    with fault or nullcontext():
        if name == MIXER:
            return mlp_mixer.build(architecture, arrays, head)
        return convmixer.build(architecture, arrays, head, image_size)
