"""The proofs of the tiny models of the golden data, which every export is held against; made once."""

import functools

import tiny
from gate.exports import proof_of

from utils.families.variants import get_variant
from utils.parity.proof import Proof
from utils.parity.report import Report


def weights(name):
    return tiny.mixer_weights() if name == "mixer_tiny" else tiny.weights(name)


@functools.cache
def proof(name, head="classification") -> Proof:
    return proof_of(get_variant(name), weights(name), head)


def failed(rows):
    """The outputs in which a comparison failed."""
    return {row.output for row in Report(rows).rows if not row.passed}
