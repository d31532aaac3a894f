"""The parity gate on real models: every honest checkpoint passes, and each fault that a converter can make fails.

The truth is the source model in float64, the measure its own framework's float32. The fault is put into the ONNX graph,
the weights, the definition or a handler, and TensorFlow runs what comes of it.
"""

import functools
import math
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
import tiny
from gate.checkpoints import KINDS
from gate.faults import Fault, faults_of
from gate.subject import Subject

from utils.errors import ParityError
from utils.families.variants import get_variant
from utils.parity.judge import RATIO
from utils.parity.report import Report

GELU, RELU = tiny.NAMES
MIXER = "mixer_tiny"


@functools.cache
def subject(name, kind="golden", head="classification"):
    variant = get_variant(name)
    if kind == "golden":
        return Subject(variant, tiny.mixer_weights() if name == MIXER else tiny.weights(name), head)
    return Subject(variant, KINDS[kind](variant, 0), head)


def caught(report):
    """By the size of an error, not because something could not be compared, and well clear of rounding."""
    rows = [row for row in report.rows if row.ratio is not None]
    assert all(math.isfinite(row.figure) for row in rows)
    assert max(row.ratio for row in rows) > 2 * RATIO, report.table()
    with pytest.raises(ParityError, match="parity failed"):
        report.require()


# The full tests take each kind of checkpoint.
FAST = [(GELU, "golden"), (GELU, "default"), (GELU, "dead"), (RELU, "golden")]


def cases(*names):
    """All pairs of one of these models and a kind of checkpoint."""
    pairs = [(name, kind) for name in names for kind in ("golden", *KINDS)]
    return [pair if pair in FAST else tiny.slow(*pair) for pair in pairs]


@pytest.mark.parametrize(("name", "kind"), cases(*tiny.NAMES))
def test_honest_convmixer_passes_in_every_figure(name, kind):
    report = subject(name, kind).report()
    report.require()
    assert {row.output for row in report.rows} == {
        "variables",
        "logits",
        "gradients",
        "logits, training mode",
        "moving statistics",
    }


@pytest.mark.parametrize(("name", "kind"), cases(MIXER))
def test_honest_mixer_passes(name, kind):
    subject(name, kind).report(training=kind == "golden").require()


@pytest.mark.parametrize("head", tiny.OUTPUTS)
@pytest.mark.slow
def test_honest_mixer_of_plain_operations_passes(head):
    Subject(get_variant(MIXER), tiny.mixer_weights(), head, operations="plain").report().require()


@pytest.mark.parametrize("name", [GELU, tiny.slow(RELU), MIXER])
def test_honest_feature_extractor_passes(name):
    subject(name, head="fe").report(training=False).require()


def fast(name, kind, fault):
    return kind == "golden" and (name == GELU or (name == MIXER and fault.name in ("gelu_by_erf", "one_block_skipped")))


# Each fault on the golden checkpoint, and a GELU's on one of the others in turn; of a ReLU's, what is its own.
OF_GELU = {fault.name for fault in faults_of(get_variant(GELU))}
PAIRS = [
    pytest.param(
        name,
        kind,
        fault,
        id=f"{name}-{kind}-{fault.name}",
        marks=() if fast(name, kind, fault) else pytest.mark.slow,
    )
    for name in (*tiny.NAMES, MIXER)
    for index, fault in enumerate(faults_of(get_variant(name)))
    if name != RELU or fault.name not in OF_GELU
    for kind in (("golden", list(KINDS)[index % len(KINDS)]) if name == GELU else ("golden",))
]


@pytest.mark.parametrize(("name", "kind", "fault"), PAIRS)
def test_fault_fails_parity(name, kind, fault):
    report = subject(name, kind).report(fault, training=False)
    if report.passed:  # momentum, and the training flag: inference has no part in them
        assert fault.ignores_training or fault.name == "another_momentum"
        report = subject(name, kind).report(fault)
    caught(report)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (GELU, "stem.0.weight"),
        (GELU, "stem.2.running_var"),
        (GELU, "blocks.1.1.weight"),
        (GELU, "blocks.2.3.running_mean"),
        (GELU, "head.weight"),
        (RELU, "blocks.1.0.fn.2.weight"),
    ],
)
def test_one_number_changed_by_one_per_cent_fails_parity(name, key):
    def plant(graph, weights):
        # The largest of its array: some numbers feed units that no input switches on. That each is the checkpoint's,
        # bit for bit, is the first comparison of all.
        flat = weights[key].reshape(-1)
        flat[np.argmax(np.abs(flat))] *= 1.01

    report = subject(name).report(Fault("one number", plant), training=False)
    assert not report.passed
    assert [row.variable for row in report.rows if row.output == "variables" and not row.passed] == [key]
    assert any(not row.passed for row in report.rows if row.output == "logits"), report.table()


def test_variance_over_n_for_n_minus_1_fails_parity_at_a_full_size_s_count_of_positions(monkeypatch):
    """There it moves the statistics by 3e-5, which is less than a sum of as many terms may err by."""
    side = 32 * tiny.architecture(GELU).patch_size  # 1,024 positions, as convmixer_768_32 has
    here = Subject(get_variant(GELU), tiny.weights(GELU), size=side)
    here.report().require()
    fused = tf.compat.v1.nn.fused_batch_norm

    def biased(x, *arguments, **settings):
        y, mean, variance = fused(x, *arguments, **settings)
        count = tf.cast(tf.size(x) / x.shape[-1], tf.float32)
        return y, mean, variance * (count - 1) / count

    monkeypatch.setattr(tf.compat.v1.nn, "fused_batch_norm", biased)
    report = here.report()
    caught(report)
    assert {row.output for row in report.rows if not row.passed} == {"moving statistics"}


@pytest.mark.parametrize("name", [GELU, tiny.slow(MIXER)])
def test_normalisation_is_probed_whatever_the_checkpoint(name):
    """With variances of thousands, another epsilon is lost in rounding: the probe sees it all the same."""
    weights = tiny.mixer_weights() if name == MIXER else tiny.weights(name)
    for key, value in weights.items():
        if key.endswith("running_var"):
            value *= 2.0**10
        elif key in ("stem/kernel", "stem/bias"):
            value *= 2.0**8
    here = Subject(get_variant(name), weights)
    here.report(training=False).require()
    (fault,) = [fault for fault in faults_of(here.variant) if fault.name == "epsilon_doubled"]
    failed = [row for row in here.report(fault, training=False).rows if not row.passed]
    assert "noise, probed" in [row.input for row in failed]


def test_an_image_equal_to_its_transpose_cannot_show_that_height_and_width_are_swapped():
    """Why the standard inputs are what they are: such a fault once went unseen for years."""
    here = subject(GELU)
    (fault,) = [fault for fault in faults_of(here.variant) if fault.name == "height_and_width_swapped"]
    call = here.export(fault).call
    noise = here.proof.inputs["noise"]
    inputs = {"symmetric": noise + noise.swapaxes(1, 2)} | here.proof.inputs
    symmetric, *others = [
        here.proof.compare_outputs(lambda batch: call(tf.constant(batch), False).numpy(), *each)
        for each in inputs.items()
    ]
    assert Report(symmetric).passed
    assert not any(row.passed for rows in others for row in rows)


def test_each_gradient_of_the_source_is_read_once_for_a_comparison(monkeypatch):
    """They may be gigabytes on disk."""
    reads, read = Counter(), np.lib.npyio.NpzFile.__getitem__

    def counted(file, name):
        reads[id(file), name] += 1
        return read(file, name)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", counted)
    subject(MIXER).report().require()
    assert set(reads.values()) == {2}  # a Mixer is compared in both modes
