"""The tiny models of the golden data, from file to TensorFlow function; what is only read is made once."""

import functools
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from utils.checkpoints.loading import Checkpoint, Wanted, load
from utils.families.variants import OUTPUTS, get_variant

GOLDEN = Path(__file__).resolve().parent / "data" / "golden"
NAMES = ("convmixer_tiny", "convmixer_tiny_relu")
LAYOUTS = ("timm", "sequential")


def read(path, variant, head="classification"):
    """The checked arrays of a file."""
    return load(Checkpoint(Path(path), "official", None, ""), Wanted(variant=variant, head=head)).arrays


def slow(*values):
    """A parameter of a test that the full tests alone try."""
    return pytest.param(*values, marks=pytest.mark.slow)


@functools.cache
def expected(name):
    """What upstream's own code computed: `inputs` [4, 48, 48, 3], `logits`, `features`, gradients."""
    with np.load(GOLDEN / f"{name}.expected.npz", allow_pickle=False) as file:
        arrays = dict(file)
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)


def architecture(name):
    return get_variant(name).architecture


def weights(name):
    """Checked arrays of the golden checkpoint; read anew, so that a test may change them."""
    found = read(GOLDEN / f"{name}.timm.pth.tar", get_variant(name))
    return {key: array.copy() for key, array in found.items()}


def source(name, head="classification"):
    """The PyTorch model, with weights of its own."""
    from utils.families.convmixer.source import build_convmixer

    return build_convmixer(architecture(name), weights(name), head)


@functools.cache
def _onnx_bytes(name, head):
    from utils.export.torch_to_onnx import export_onnx

    return export_onnx(source(name, head), OUTPUTS[head]).SerializeToString()


def graph(name, head="classification"):
    """The ONNX graph, a copy that a test may edit."""
    import onnx

    return onnx.load_from_string(_onnx_bytes(name, head))


def exported(name, head="classification", image_size=None):
    """The TensorFlow function, with variables of its own."""
    from utils.export.onnx_to_tf import export_tensorflow
    from utils.families.convmixer.models import taps

    tapped = taps(architecture(name).depth) if head == "fe" else None
    return export_tensorflow(graph(name, head), weights(name), image_size, OUTPUTS[head], tapped)


def mixer_weights():
    """Checked arrays of the golden Mixer's checkpoint; read anew, so that a test may change them."""
    found = read(GOLDEN / "mixer_tiny.npz", get_variant("mixer_tiny"))
    return {key: array.copy() for key, array in found.items()}


def mixer(head="classification", operations="xla"):
    """(the TensorFlow function, the Flax model as a function) of the tiny Mixer."""
    from utils.families.mlp_mixer import models, source as flax

    source = models.build(architecture("mixer_tiny"), mixer_weights(), head)
    exported = models.export(source, {}, 48, operations).function
    return exported, flax.as_function(source.model, source.variables())


def relative_error(found, reference):
    """Max |error| / max |reference|."""
    return np.abs(np.asarray(found, np.float64) - reference).max() / np.abs(reference).max()


def relative_l2(found, reference):
    return np.linalg.norm(np.asarray(found, np.float64) - reference) / np.linalg.norm(reference)


def compare_gradients(expected, found, input_name, batch):
    """Rows of gradients against golden ones in float32: relative L2, small images, where no ReLU unit is near zero."""
    from utils.parity.comparison import compare_arrays

    settings = {"output": "gradients", "tolerance": 1e-4, "input_name": input_name, "batch": batch, "l2": True}
    return compare_arrays(expected, found, **settings)


def small(size=4):
    """An exported function small enough to be saved in no time."""
    import tensorflow as tf

    from utils.export.function import ExportedFunction

    weight = tf.Variable(tf.ones([3, size]), name="weight")
    return ExportedFunction(
        call=lambda inputs, training: tf.reduce_mean(inputs, (1, 2)) @ weight,
        variables={"weight": weight},
        trainable={"weight": weight},
        output="logits",
        units=size,
        input_shape=(8, 8, 3),
    )
