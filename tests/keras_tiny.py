"""The tiny models of the golden data in Keras 3, on its TensorFlow backend, and their proofs; made once."""

import functools
from contextlib import nullcontext

import tiny

from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.keras_models import convmixer, mlp_mixer
from utils.models.variants import OUTPUTS, get_variant
from utils.parity.comparison import Report, standard_inputs
from utils.parity.proof import Proof
from utils.parity.references import References

GELU, RELU = tiny.NAMES
MIXER = "mixer_tiny"
NAMES = (GELU, RELU, MIXER)


def family(name):
    return get_variant(name).family


def weights(name):
    return tiny.mixer_weights() if name == MIXER else tiny.weights(name)


def source(variant, arrays, head="classification"):
    from utils.models import convmixer as pytorch, mlp_mixer as flax

    if variant.family == "convmixer":
        return pytorch.Source(pytorch.build_convmixer(variant.architecture, arrays, head))
    model = flax.build(variant.architecture, head)
    return flax.Source(model, flax.select_parameters(model, arrays))


def proof_of(variant, arrays, head="classification"):
    pictures = sample_photographs().items()
    photographs = {title: pillow_preprocess(picture, variant.preprocessing) for title, picture in pictures}
    size = variant.image_size
    inputs = standard_inputs(size, size, 0, photographs)
    positions = variant.architecture.positions(size, size)
    return Proof(source(variant, arrays, head), OUTPUTS[head], inputs, positions, References(), keep=True)


@functools.cache
def proof(name, head="classification"):
    return proof_of(get_variant(name), weights(name), head)


def built(name, head="classification", image_size=None, arrays=None, architecture=None, fault=None):
    """The Keras model; `fault` is there while it is built, and only then."""
    architecture = architecture or tiny.architecture(name)
    arrays = weights(name) if arrays is None else arrays
    with fault or nullcontext():
        if name == MIXER:
            return mlp_mixer.build(architecture, arrays, head)
        return convmixer.build(architecture, arrays, head, image_size)


def failed(rows):
    """The outputs in which a comparison failed."""
    return {row.output for row in Report(rows).rows if not row.passed}
