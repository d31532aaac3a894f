"""The parity gate: what passes it, and that each numeric fault fails it.

The reference is a linear model computed in numpy, with rows of weights for every pixel, so that whatever
moves pixels shows; faults are planted into the candidate.
"""

import json
import re

import numpy as np
import pytest

from utils.errors import ParameterError, ParityError
from utils.parity.comparison import compare_arrays, compare_outputs
from utils.parity.inputs import jittered, standard_inputs
from utils.parity.judge import EXACT, RATIO, ROUNDING, rounded_up, worst_first
from utils.parity.plot import plot
from utils.parity.report import Report

HEIGHT, WIDTH, CLASSES = 24, 24, 10
WEIGHTS = np.random.default_rng(7).normal(size=(HEIGHT * WIDTH * 3, CLASSES)) / 10


def reference(inputs: np.ndarray) -> np.ndarray:
    return (inputs.reshape(len(inputs), -1).astype(np.float64) @ WEIGHTS).astype(np.float32)


def rounding(inputs: np.ndarray) -> np.ndarray:
    """The same function in another order of summation: what a faithful export differs by."""
    halves = inputs.reshape(len(inputs), 2, -1), WEIGHTS.astype(np.float32).reshape(2, -1, CLASSES)
    return np.einsum("bhi,hio->bo", *halves)


def exact(inputs: np.ndarray) -> np.ndarray:
    """The truth, in float64."""
    return inputs.reshape(len(inputs), -1).astype(np.float64) @ WEIGHTS


def coarse(inputs: np.ndarray) -> np.ndarray:
    """The source framework's own float32."""
    return inputs.reshape(len(inputs), -1) @ WEIGHTS.astype(np.float32)


def compare_gradients(before, after, input_name, batch) -> list:
    """As derived files are compared: with a fixed tolerance, relative L2."""
    return compare_arrays(
        before, after, output="gradients", tolerance=1e-4, input_name=input_name, batch=batch, l2=True
    )


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(3).standard_normal((2, HEIGHT, WIDTH, 3), dtype=np.float32)
    return standard_inputs(HEIGHT, WIDTH, seed=0, photographs={"cat": noise[0], "rocket": noise[1]})


def compared(candidate, inputs, output="logits", **settings) -> Report:
    return Report(compare_outputs(reference, candidate, inputs, output, **settings))


# --- the inputs


def test_inputs_come_in_batches_of_more_than_one_size(inputs):
    assert {len(batch) for batch in inputs.values()} == {1, 2}  # two photographs
    for batch in inputs.values():
        assert batch.dtype == np.float32
        assert batch.shape[1:] == (HEIGHT, WIDTH, 3)
        assert np.isfinite(batch).all()
    assert 50 < np.abs(inputs["large"]).max() < 200  # far beyond a normalised photograph


def test_the_seed_decides_the_inputs():
    first, again, other = (standard_inputs(16, 12, seed=seed) for seed in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["noise"], other["noise"])
    assert not np.array_equal(first["large"], 20 * first["noise"])


def test_other_runs_of_the_source_see_inputs_that_differ_in_their_last_digits(inputs):
    noise = inputs["noise"]
    assert jittered(noise).dtype == np.float32
    moved = (jittered(noise) - noise) / noise
    assert 2.0**-18 < np.abs(moved).min() <= np.abs(moved).max() < 2.0**-16
    assert abs(np.sign(moved).mean()) < 0.1
    np.testing.assert_array_equal(jittered(noise), jittered(noise))


def test_each_input_but_a_photograph_changes_when_turned_flipped_or_recoloured(inputs):
    moves = {
        "height and width swapped": lambda x: x.swapaxes(1, 2),
        "upside down": lambda x: x[:, ::-1],
        "mirrored": lambda x: x[:, :, ::-1],
        "channels reversed": lambda x: x[..., ::-1],
        "one pixel down": lambda x: np.roll(x, 1, axis=1),
        "one pixel right": lambda x: np.roll(x, 1, axis=2),
    }
    for name, batch in inputs.items():
        for move, apply in moves.items():
            assert np.abs(apply(batch) - batch).max() > 0.1, (name, move)


@pytest.mark.parametrize("channels", [1, 2, 10])
def test_each_channel_of_an_input_is_its_own(channels):
    for name, batch in standard_inputs(HEIGHT, WIDTH, 0, channels=channels).items():
        assert batch.shape == (1, HEIGHT, WIDTH, channels)
        assert len(np.unique(batch.reshape(-1, channels), axis=1).T) == channels, name
    of_three = standard_inputs(HEIGHT, WIDTH, 0)["ramp and block"]
    found = standard_inputs(HEIGHT, WIDTH, 0, channels=channels)["ramp and block"]
    np.testing.assert_array_equal(found[..., :3], of_three[..., :channels])


@pytest.mark.parametrize(
    "photograph",
    [
        np.zeros((WIDTH, HEIGHT + 1, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.full((HEIGHT, WIDTH, 3), np.nan, np.float32),
    ],
    ids=["shape", "dtype", "NaN"],
)
def test_a_photograph_that_was_not_preprocessed_is_refused_by_name(photograph):
    with pytest.raises(ParameterError, match="'cat'"):
        standard_inputs(HEIGHT, WIDTH, 0, {"cat": photograph})


# --- outputs


def test_another_order_of_summation_passes_with_a_row_per_input(inputs):
    report = compared(rounding, inputs)
    report.require()
    assert [(row.input, row.batch) for row in report.rows] == [(name, len(x)) for name, x in inputs.items()]
    assert all(row.max_abs > 0 and 0 < row.rmse < row.max_abs for row in report.rows)
    assert {row.top1 for row in report.rows} == {row.top5 for row in report.rows} == {1.0}


def test_the_figures_are_those_of_the_definition():
    expected = np.array([[4.0, 1.0, 0.0], [2.0, -8.0, 0.0]], np.float32)
    found = expected + np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.03]], np.float32)
    (row,) = compare_outputs(lambda _: expected, lambda _: found, {"x": np.zeros((2, 1, 1, 3))}, "logits", 0.01)
    assert row.max_abs == pytest.approx(0.03)
    assert row.relative == pytest.approx(0.03 / 8)
    assert row.rmse == pytest.approx(0.03 / np.sqrt(6))
    assert row.figure == row.relative_l2 == pytest.approx(0.03 / np.linalg.norm(expected))
    assert row.passed
    assert row.ratio is None
    (small,) = compare_outputs(lambda _: expected / 8, lambda _: found / 8, {"x": np.zeros((2, 1))}, "features")
    assert small.relative == small.max_abs  # below 1, relative to 1
    assert (small.top1, small.top5) == (None, None)


# --- against the truth, in units of the source's own error


def array(*values) -> dict[str, np.ndarray]:
    return {"a": np.array(values, np.float32)}


TRUTH = {"a": np.array([3.0, 4.0])}  # of norm 5


def measured(found, *sources, **settings) -> list:
    return compare_arrays(TRUTH, found, output="gradients", sources=sources, **settings)


def test_the_source_sets_the_tolerance():
    (row,) = measured(array(3, 4.002), array(3, 4.0005))
    assert row.figure == pytest.approx(4e-4, rel=1e-3)
    assert row.source == pytest.approx(1e-4, rel=1e-3)
    assert row.ratio == pytest.approx(4, rel=1e-2)
    assert row.tolerance == pytest.approx(RATIO * row.source)
    assert row.passed
    assert not measured(array(3, 4.002), array(3, 4.00003))[0].passed


def test_the_worst_run_of_the_source_counts():
    assert not measured(array(3, 4.002), array(3, 4))[0].passed
    assert measured(array(3, 4.002), array(3, 4), array(3, 4.0005))[0].passed


def test_an_exact_source_still_allows_a_few_rounding_steps():
    (near,) = measured(array(3, 4 * (1 + 2.0**-22)), array(3, 4))
    assert (near.source, near.passed) == (0, True)
    assert near.tolerance == RATIO * ROUNDING
    assert not measured(array(3, 4 * (1 + 2.0**-19)), array(3, 4))[0].passed


def test_of_sums_the_source_errs_on_any_array_as_much_as_on_half_of_them():
    truth = {name: np.array([3.0, 4.0]) for name in "abc"}
    own = {name: np.array([3, 4 + error], np.float32) for name, error in zip("abc", (1e-2, 1e-2, 0), strict=True)}
    found = {name: np.array([3, 4.01], np.float32) for name in "abc"}
    for summed in (0, 1):
        rows = compare_arrays(truth, found, output="gradients", sources=[own], summed=summed)
        assert [row.passed for row in rows] == [True, True, bool(summed)]
    spoilt = found | {"c": np.array([3, 4.2], np.float32)}
    assert [row.passed for row in compare_arrays(truth, spoilt, output="gradients", sources=[own], summed=1)] == [
        True,
        True,
        False,
    ]


def test_a_sum_of_n_terms_may_err_by_n_half_rounding_steps_however_the_source_sums():
    """The bias before a Mixer's pooling: each of 784 tokens gives the same, and TensorFlow adds them one by one."""
    terms = np.full((784, 3), np.float32([0.1, 0.7, -1.3]) / np.float32(784), np.float32)
    truth = {"bias": terms.sum(0, dtype=np.float64)}
    in_order = np.cumsum(terms, 0, dtype=np.float32)[-1]
    by_halves = {"bias": truth["bias"].astype(np.float32)}
    settings = {"output": "gradients", "sources": [by_halves]}
    assert not compare_arrays(truth, {"bias": in_order}, summed=1, **settings)[0].passed  # it does err
    assert compare_arrays(truth, {"bias": in_order}, summed=784, **settings)[0].passed
    (row,) = compare_arrays(truth, {"bias": in_order}, summed=784, **settings)
    assert row.source < ROUNDING  # what was measured is shown, whatever else is allowed
    assert row.ratio > RATIO
    for error, passes in ((0.9 * 784 * ROUNDING, True), (1.2 * 784 * ROUNDING, False)):
        found = (truth["bias"] * (1 + error)).astype(np.float32)
        assert compare_arrays(truth, {"bias": found}, summed=784, **settings)[0].passed is passes


def test_where_the_truth_is_zero_nothing_but_the_source_may_be_otherwise():
    zero = {"a": np.zeros(2)}
    settings = {"output": "gradients"}
    assert compare_arrays(zero, array(0, 0), sources=[array(0, 0)], **settings)[0].passed
    assert compare_arrays(zero, array(1e-9, 0), sources=[array(1e-9, 0)], **settings)[0].passed
    assert not compare_arrays(zero, array(1e-9, 0), sources=[array(0, 0)], **settings)[0].passed


@pytest.mark.parametrize(
    ("truth", "runs", "reason"),
    [
        (array(3, 4), [array(3, 4)], "the truth is float32, expected float64"),
        (TRUTH, [array(3, np.nan)], "the source's own float32 holds NaN"),
        (TRUTH, [array(3, 4, 5)], "not float32 of the truth's shape"),
        (TRUTH, [TRUTH], "not float32 of the truth's shape"),
        (TRUTH, [{}], "the source's run 1 has no such variable"),
        (TRUTH, [], "not float32 of the truth's shape"),
    ],
)
def test_a_truth_or_source_that_is_no_measure_fails(truth, runs, reason):
    (row,) = compare_arrays(truth, array(3, 4), output="gradients", sources=runs)
    assert not row.passed
    assert reason in row.reason


def test_a_source_that_is_wildly_off_fails_for_outputs_and_is_named_elsewhere(inputs):
    def off(batch):
        return reference(batch) * np.float32(1.02)

    report = Report(compare_outputs(exact, reference, inputs, "features", source=off))
    assert not any(row.passed for row in report.rows)
    with pytest.raises(ParityError, match="the source's own float32 errs by 2e-02, so this proves little"):
        report.require()
    (row,) = measured(array(3, 4), array(3, 4.2))
    assert row.passed
    assert "proves little" in row.reason


def test_a_faithful_export_is_measured(inputs):
    report = Report(compare_outputs(exact, rounding, inputs, "logits", source=coarse), "PyTorch")
    report.require()
    assert all(0 < row.ratio < RATIO for row in report.rows)


def test_top_one_may_differ_only_within_what_is_allowed():
    truth = np.array([[1.0, 1.0 - 2e-6, 0.0]])
    swapped = np.array([[1.0 - 2e-6, 1.0, 0.0]], np.float32)
    exact_source, coarse = truth.astype(np.float32), (truth + np.array([[1e-6, 0, 0]])).astype(np.float32)
    rows = [
        compare_outputs(lambda _: truth, lambda _: swapped, {"x": np.zeros((1, 1))}, "logits", source=lambda _, s=s: s)[
            0
        ]
        for s in (exact_source, coarse)
    ]
    assert (rows[0].passed, rows[0].top1) == (False, 0.0)
    assert (rows[1].passed, rows[1].top1) == (True, None)


def test_the_sentence_is_the_worst_of_the_outputs_in_units_of_the_source(inputs):
    rows = compare_outputs(exact, rounding, inputs, "logits", source=coarse)
    rows += measured(array(3, 4.002), array(3, 4.0005))
    report = Report(rows, "PyTorch")
    assert report.ratios["logits"] == max(row.ratio for row in rows if row.output == "logits")
    assert report.sentence.startswith(f"Its logits err {report.ratios['logits']:.1f} times as much as PyTorch's own")
    assert "(gradients 4.0 times)" in report.sentence
    assert report.sentence in report.table()
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["sentence"] == report.sentence
    assert found["ratio"] == report.ratios
    again = Report.from_json(found)
    assert (again.sentence, again.table(), again.rows) == (report.sentence, report.table(), report.rows)
    found["rows"][0]["of_a_later_version"] = 1
    assert Report.from_json(found).rows == report.rows
    assert Report(compare_outputs(reference, rounding, inputs, "logits")).sentence == ""


def test_a_measured_tolerance_is_written_with_one_digit_and_never_tighter():
    report = Report(measured(array(3, 4), array(3, 4.0005)))
    assert report.tolerances == {"gradients": 2e-3}
    assert report.rows[0].tolerance < 2e-3
    assert [rounded_up(value, 1) for value in (1.2e-6, 9.1e-6, 3e-7, 0.0)] == [2e-6, 1e-5, 3e-7, 0.0]
    assert [rounded_up(value, 2) for value in (0.0030599, 0.21862, 1e-5, 0.0031)] == [0.0031, 0.22, 1e-5, 0.0031]


def one_value(change):
    """Plants a fault in one value of one image of one batch."""

    def candidate(inputs):
        found = reference(inputs)
        if len(inputs) == 2:
            found[1, 3] = change(found, np.abs(found).max())
        return found

    return candidate


FAULTS = {
    "one value off by 1e-4 of the largest": one_value(lambda found, scale: found[1, 3] + 1e-4 * scale),
    "one NaN": one_value(lambda found, scale: np.nan),
    "one infinity": one_value(lambda found, scale: np.inf),
    "all NaN": lambda inputs: reference(inputs) * np.float32(np.nan),
    "images of a batch exchanged": lambda inputs: reference(inputs)[::-1],
    "height and width swapped": lambda inputs: reference(inputs.swapaxes(1, 2)),
    "classes shifted by one": lambda inputs: np.roll(reference(inputs), 1, axis=1),
    "first image for all": lambda inputs: np.repeat(reference(inputs)[:1], len(inputs), axis=0),
    "a constant": lambda inputs: np.zeros((len(inputs), CLASSES), np.float32),
    "scaled by 1.0001": lambda inputs: reference(inputs) * np.float32(1.0001),
    "half precision": lambda inputs: reference(inputs).astype(np.float16).astype(np.float32),
    "transposed": lambda inputs: reference(inputs).T,
    "one row, to be broadcast": lambda inputs: reference(inputs)[:1],
    "a class too many": lambda inputs: np.pad(reference(inputs), ((0, 0), (0, 1))),
    "an extra dimension": lambda inputs: reference(inputs)[:, None],
    "float64": lambda inputs: reference(inputs).astype(np.float64),
    "nothing": lambda inputs: np.zeros((0, CLASSES), np.float32),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("output", ["logits", "features"])
def test_a_planted_fault_fails(inputs, output, fault):
    report = compared(FAULTS[fault], inputs, output)
    with pytest.raises(ParityError, match=output):
        report.require()
    assert not Report(compare_outputs(exact, FAULTS[fault], inputs, output, source=coarse)).passed


def test_a_reference_of_nan_fails_even_if_the_candidate_is_the_same(inputs):
    broken = FAULTS["all NaN"]
    report = Report(compare_outputs(broken, broken, inputs, "logits"))
    assert not report.passed
    assert "reference itself" in report.rows[0].reason


@pytest.mark.parametrize(("scale", "allowed"), [(1, 1e-5), (10, 1e-4), (0.1, 1e-5)])
def test_a_swapped_best_class_fails_only_where_the_reference_is_sure(scale, allowed):
    """The margin between the two best classes decides: it is held against what the largest logit may err by."""

    def swapped(margin: float):
        expected = np.array([[scale, scale - margin, 0.0]])
        found = np.array([[scale - 0.6 * margin, scale - 0.4 * margin, 0.0]])
        pair = expected.astype(np.float32), found.astype(np.float32)
        return compare_outputs(lambda _: pair[0], lambda _: pair[1], {"x": np.zeros((1, 1))}, "logits")[0]

    sure, unsure = swapped(1.5 * allowed), swapped(0.7 * allowed)
    assert (sure.passed, sure.top1, unsure.top1) == (False, 0.0, None)
    if scale >= 1:  # the error itself is within the tolerance
        assert sure.figure <= 1e-5
        assert unsure.passed
        with pytest.raises(ParityError, match="top-1 differs"):
            Report([sure]).require()


def test_a_classifier_of_one_class_has_no_best_class_to_be_sure_of():
    one = np.ones((2, 1), np.float32)
    (row,) = compare_outputs(lambda _: one, lambda _: one, {"x": np.zeros((2, 1))}, "logits")
    assert (row.passed, row.top1, row.top5) == (True, None, 1.0)


def test_top_five_is_the_overlap_of_the_best_five():
    expected = np.arange(10, dtype=np.float32)[None]
    found = expected.copy()
    found[0, [5, 0]] = found[0, [0, 5]]  # the fifth best falls out
    (row,) = compare_outputs(lambda _: expected, lambda _: found, {"x": np.zeros((1, 1))}, "logits")
    assert row.top5 == pytest.approx(0.8)
    assert row.top1 == 1.0


def test_a_model_that_changes_its_input_in_place_does_not_deceive_the_other(inputs):
    def careless(batch):
        found = reference(batch)
        batch[:] = 0
        return found

    assert Report(compare_outputs(careless, rounding, inputs, "logits")).passed
    assert not Report(compare_outputs(careless, FAULTS["a constant"], inputs, "logits")).passed


def test_nothing_to_compare_fails_beside_a_good_comparison_too(inputs):
    good = compare_outputs(reference, rounding, inputs, "logits")
    for empty in (compare_outputs(reference, rounding, {}, "features"), compare_gradients({}, {}, "noise", 1)):
        with pytest.raises(ParityError, match="there is no"):
            Report([*good, *empty]).require()
    with pytest.raises(ParityError, match="nothing was compared"):
        Report([]).require()


# --- gradients and other arrays by name


def test_a_variable_that_differs_in_its_last_digit_fails():
    checkpoint, found = array(3, 1e-3), array(3, np.nextafter(np.float32(1e-3), np.float32(1)))
    for candidate, passes in ((checkpoint, True), (found, False)):
        (row,) = compare_arrays(checkpoint, candidate, output="variables", tolerance=EXACT)
        assert row.passed is passes


def gradients() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    scales = {"stem.0.weight": 1e-6, "blocks.0.1.weight": 1.0, "head.bias": 1e4}  # each is judged by its own
    return {name: (scale * rng.normal(size=(6, 5))).astype(np.float32) for name, scale in scales.items()}


def test_equal_gradients_pass_in_any_order_whatever_their_scale():
    found = {name: value * np.float32(1 + 1e-6) for name, value in reversed(gradients().items())}
    rows = compare_gradients(gradients(), found, "noise", 3)
    Report(rows).require()
    assert [row.relative_l2 for row in rows] == pytest.approx([1e-6] * 3, rel=0.1)


@pytest.mark.parametrize("change", [{"head.bias": None}, {}], ids=["None", "absent"])
def test_a_gradient_that_only_one_side_has_fails_both_ways(change):
    whole = gradients()
    fewer = {name: value for name, value in whole.items() if name != "head.bias"} | change
    for pair, side in (((whole, fewer), "candidate"), ((fewer, whole), "reference")):
        with pytest.raises(ParityError, match=f"in 1 of 3 .*\n.*head.bias, noise, batch 3: the {side} has no such"):
            Report(compare_gradients(*pair, "noise", 3)).require()


GRADIENT_FAULTS = {
    "off by 2e-4": lambda value: value * np.float32(1 + 2e-4),
    "transposed": lambda value: value.T.reshape(value.shape),
    "misshapen": lambda value: value.T,
    "sign": lambda value: -value,
    "zero": lambda value: value * 0,
    "NaN": lambda value: np.where(np.arange(value.size).reshape(value.shape) == 3, np.float32(np.nan), value),
    "float64": lambda value: value.astype(np.float64),
}


@pytest.mark.parametrize("name", gradients())
@pytest.mark.parametrize("fault", GRADIENT_FAULTS)
def test_a_fault_in_one_gradient_fails_and_is_named(name, fault):
    found = gradients()
    found[name] = GRADIENT_FAULTS[fault](found[name])
    with pytest.raises(ParityError, match=f"in 1 of 3 .*\n.*{re.escape(name)}"):
        Report(compare_gradients(gradients(), found, "noise", 3)).require()


# --- the report


def failing(inputs) -> Report:
    def candidate(batch):
        found = reference(batch)
        return found * np.float32(1.1 if len(batch) == 2 else 1.001 if np.abs(batch).max() > 50 else 1)

    return compared(candidate, inputs)


def test_the_error_lists_the_failed_figures_worst_first(inputs):
    with pytest.raises(ParityError) as caught:
        failing(inputs).require()
    message = str(caught.value)
    assert "2 of 4 comparisons" in message
    order = [line.split(":")[0].strip() for line in message.splitlines()[1:]]
    assert order == ["logits, photographs, batch 2", "logits, large, batch 1"]
    assert "1.0e-03 > 1.0e-05" in message
    assert "noise" not in message


def test_the_json_is_strict_and_holds_every_row(inputs):
    rows = compare_outputs(reference, rounding, inputs, "logits") + compare_gradients(
        gradients(), gradients(), "noise", 3
    )
    report = Report([*rows, *compared(FAULTS["one NaN"], inputs, "features").rows])
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["passed"] is False
    assert found["tolerance"] == {"logits": 1e-5, "gradients": 1e-4, "features": 1e-5}
    assert len(found["rows"]) == len(report.rows)
    assert found["rows"][0]["relative"] == report.rows[0].relative
    assert {"output", "input", "batch", "max_abs", "relative", "rmse", "top1", "top5"} <= set(found["rows"][0])
    assert found["rows"][0]["passed"] is True
    assert [row["max_abs"] for row in found["rows"]].count("nan") == 1
    assert "NaN" in worst_first(report.rows)[0].reason
    again = Report.from_json(found)
    assert (again.passed, again.table(), again.to_json()) == (False, report.table(), report.to_json())
    assert compared(rounding, inputs, tolerance=0.5).to_json()["tolerance"] == {"logits": 0.5}


def many_gradients() -> list:
    names = [f"blocks.{index}.1.weight" for index in range(166)]
    before = {name: np.ones(4, np.float32) for name in names}
    after = {name: np.full(4, 1 + (index + 1) * 2.0**-22, np.float32) for index, name in enumerate(names)}
    return compare_gradients(before, after, "noise", 3)


def test_many_variables_are_summed_up_with_the_worst_five():
    table = Report(many_gradients()).table()
    assert "gradients (166, median 2.0e-05)" in table
    assert re.findall(r"blocks\.(\d+)\.1\.weight ", table) == ["165", "164", "163", "162", "161"]


def test_the_html_is_well_formed_compact_and_escaped(inputs):
    from xml.etree import ElementTree

    rows = compare_arrays({"<b>&": np.ones(2, np.float32)}, {}, output="statistics", tolerance=1e-5)
    page = Report([*failing(inputs).rows, *rows, *many_gradients()])._repr_html_()
    tree = ElementTree.fromstring(page)
    assert "<b>&" in "".join(tree.itertext())
    cells = [cell.text for cell in tree.iter("td")]
    assert cells.count("FAIL") == 2
    assert all(len(cell or "") < 50 for cell in cells)
    assert len(list(tree.iter("tr"))) == 1 + 4 + 1 + 6


def test_the_plot_has_a_dot_for_every_row_and_marks_the_worst(inputs, tmp_path):
    report = Report([*failing(inputs).rows, *compared(FAULTS["one NaN"], inputs, "features").rows, *many_gradients()])
    figure = plot(report)
    figure.savefig(tmp_path / "parity.png")
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() in ("o", "X")]
    assert len(dots) == len(report.rows)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["noise × 1", "ramp and block × 1"]
    (worst,) = [text for text in axes.texts if "NaN" in text.get_text()]
    figure.canvas.draw()
    assert not axes._left_title.get_window_extent().overlaps(worst.get_window_extent())
    assert worst.get_window_extent().y0 > axes.get_window_extent().y1  # in no lane
    beside = measured(array(3, 4.002), array(3, 4.0005))
    (axes,) = plot(Report(beside)).axes
    assert [line.get_marker() for line in axes.lines if line.get_marker() in ("o", "D")] == ["D", "o"]
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    assert all(left < x < right for dot in dots for x in dot.get_xdata())


def test_an_exact_or_empty_report_can_be_shown_too(inputs):
    for report in (compared(reference, inputs), Report([])):
        plot(report).canvas.draw()
        assert f"{len(report.rows)} comparisons" in report.table() or "nothing was compared" in report.table()
        assert "float64" not in report._repr_html_()  # the source was measured in none
