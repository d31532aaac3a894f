"""The proofs of the tiny models of the golden data, which every export is held against; made once."""

import functools

import tiny

from utils.families.variants import OUTPUTS, get_variant
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.parity.inputs import standard_inputs
from utils.parity.proof import Proof
from utils.parity.references import References
from utils.parity.report import Report


def weights(name):
    return tiny.mixer_weights() if name == "mixer_tiny" else tiny.weights(name)


def source(variant, arrays, head="classification"):
    from utils.families.convmixer import source as pytorch
    from utils.families.mlp_mixer import source as flax

    if variant.family == "convmixer":
        return pytorch.ReferenceModel(pytorch.build_convmixer(variant.architecture, arrays, head))
    model = flax.build(variant.architecture, head)
    return flax.ReferenceModel(model, flax.select_parameters(model, arrays))


def proof_of(variant, arrays, head="classification"):
    pictures = sample_photographs().items()
    photographs = {title: pillow_preprocess(picture, variant.preprocessing) for title, picture in pictures}
    size = variant.image_size
    inputs = standard_inputs(size, size, 0, photographs)
    positions = variant.architecture.positions(size, size)
    return Proof(source(variant, arrays, head), OUTPUTS[head], inputs, positions, References())


@functools.cache
def proof(name, head="classification"):
    return proof_of(get_variant(name), weights(name), head)


def failed(rows):
    """The outputs in which a comparison failed."""
    return {row.output for row in Report(rows).rows if not row.passed}
