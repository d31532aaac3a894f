"""What the source computed is computed once: for both heads, for twins, in other processes; never for another array."""

import errno
import shutil
import threading

import numpy as np
import pytest
import tiny

from utils.conversion import convert
from utils.errors import ParityError
from utils.parity.references import FOLDER_VARIABLE, References

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)


class Source:
    """Gives both outputs, or the features alone, and counts."""

    def __init__(self, head="classification"):
        self.head, self.calls = head, 0

    def __call__(self, inputs):
        self.calls += 1
        features = {"features": inputs * 2}
        return features | ({"logits": inputs + 1} if self.head == "classification" else {})


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)


@pytest.mark.usefixtures("alone")
def test_the_same_array_is_computed_once_and_another_again():
    source = Source()
    logits = References("sha", "variant").output("logits", source)
    for inputs in (A, A.copy(), B, A):
        np.testing.assert_array_equal(logits(inputs), inputs + 1)
    assert source.calls == 2


@pytest.mark.usefixtures("alone")
def test_without_a_folder_nothing_is_shared():
    for calls in (1, 2):
        source = Source()
        References("sha", "variant").output("logits", source)(A)
        assert source.calls == 1, calls


def test_where_nothing_can_be_written_nothing_is_shared_and_nothing_fails(shared, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(shared / "full"))
    for _ in range(2):
        source = Source()
        np.testing.assert_array_equal(References("sha", "variant").output("logits", source)(A), A + 1)
        assert source.calls == 1
    assert list(shared.iterdir()) == []


def test_a_feature_extractor_finds_what_the_classifier_computed(shared):
    References("sha", "variant").output("logits", Source())(A)
    second = Source("fe")
    np.testing.assert_array_equal(References("sha", "variant").output("features", second)(A), A * 2)
    assert second.calls == 0
    assert not [path for path in shared.iterdir() if path.suffix != ".npz"]


@pytest.mark.usefixtures("shared")
def test_a_classifier_after_a_feature_extractor_computes_its_logits_once():
    References("sha", "variant").output("features", Source("fe"))(A)
    second = Source()
    logits = References("sha", "variant").output("logits", second)
    np.testing.assert_array_equal(logits(A), A + 1)
    np.testing.assert_array_equal(logits(A), A + 1)
    assert second.calls == 1


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("source", "inputs"),
    [
        (("other", "variant"), A),
        (("sha", "other"), A),
        (("sha", "variant"), A.T.copy()),
        (("sha", "variant"), A + 1e-6),
    ],
    ids=["another checkpoint", "another variant", "another shape", "another value"],
)
def test_what_is_of_something_else_is_not_taken(source, inputs):
    References("sha", "variant").output("logits", Source())(A)
    second = Source()
    References(*source).output("logits", second)(inputs)
    assert second.calls == 1


@pytest.fixture
def gradients():
    calls = []

    def run(inputs):
        calls.append(1)
        return {"block/kernel": inputs * len(calls)}

    return run


@pytest.mark.usefixtures("shared")
def test_gradients_of_one_head_are_not_those_of_the_other(gradients):
    for what, expected in (("gradients, fe", 1), ("gradients, fe", 1), ("gradients, classification", 2)):
        found = References("sha", "variant").large(what, A, gradients, shared=True)
        np.testing.assert_array_equal(found["block/kernel"], A * expected)


def test_what_nobody_else_needs_is_not_shared(shared, gradients):
    found = [References("sha", "variant").large("gradients", A, gradients, shared=False) for _ in range(2)]
    np.testing.assert_array_equal(found[1]["block/kernel"], A * 2)
    assert not list(shared.iterdir())


@pytest.mark.parametrize("folder", ["shared", "alone"])
def test_what_is_large_waits_on_disk_and_not_in_memory(request, gradients, folder):
    request.getfixturevalue(folder)
    found = References("sha", "variant").large("gradients", A, gradients, shared=True)
    assert list(found) == ["block/kernel"]
    assert found["block/kernel"] is not found["block/kernel"]  # read each time
    assert found.get("block/bias") is None
    np.testing.assert_array_equal(found["block/kernel"], A)


def test_what_would_leave_too_little_disk_for_the_conversion_is_not_written(shared, gradients, monkeypatch):
    usage = shutil.disk_usage(shared)
    for free, files in ((3 * A.nbytes - 1, 0), (3 * A.nbytes, 1)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        References("sha", "variant").large("gradients", A, gradients, shared=True)
        assert len(list(shared.iterdir())) == files


@pytest.mark.parametrize("folder", ["shared", "alone"])
def test_what_is_large_stays_in_memory_where_the_disk_is_full(request, gradients, folder, monkeypatch):
    request.getfixturevalue(folder)

    def full(file, **arrays):
        file.write(b"PK\x03\x04")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    found = References("sha", "variant").large("gradients", A, gradients, shared=True)
    np.testing.assert_array_equal(found["block/kernel"], A)


@pytest.mark.usefixtures("shared")
def test_who_changes_a_result_changes_it_for_itself_alone():
    def in_place(inputs):
        inputs += 1
        return {"logits": inputs}

    logits = References("sha", "variant").output("logits", in_place)
    given = A.copy()
    logits(given)[:] = 7
    np.testing.assert_array_equal(given, A)
    np.testing.assert_array_equal(logits(A), A + 1)


def test_what_is_asked_for_later_is_computed_in_order_by_one_thread_beside_this_one():
    references, threads, order = References("sha", "variant"), set(), []

    def run(name):
        threads.add(threading.get_ident())
        order.append(name)
        if name == "fails":
            raise ValueError("as the source does")
        return name

    waiting = threading.Event()
    references.later(waiting.wait)
    results = [references.later(lambda name=name: run(name)) for name in ("a", "fails", "b")]
    assert not order, "nobody waits for it"
    waiting.set()
    assert results[2]() == "b"
    assert results[0]() == results[0]() == "a"
    with pytest.raises(ValueError, match="as the source does"):
        results[1]()
    assert order == ["a", "fails", "b"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_ahead_begins_with_what_will_be_asked_for_and_takes_anything_else():
    calls = []

    def model(inputs):
        calls.append(threading.get_ident())
        return inputs + len(calls)

    function = References("sha", "variant").ahead(model, [A])
    np.testing.assert_array_equal(function(A), A + 1)
    np.testing.assert_array_equal(function(A), A + 1)
    np.testing.assert_array_equal(function(A * 2), A * 2 + 2)
    assert calls[0] != threading.get_ident() == calls[1]


@pytest.mark.slow
def test_a_conversion_compares_with_what_is_shared(shared, tmp_path_factory):
    """A fault planted in the shared folder stops the second head: it is read, and the gate holds it to the export."""
    settings = {
        "checkpoint": str(tiny.GOLDEN / "mixer_tiny.npz"),
        "output_dir": str(tmp_path_factory.mktemp("exports")),
    }
    convert("mixer_tiny", head="classification", **settings)
    planted = 0
    for path in shared.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        if "features" in arrays:
            np.savez(path, **arrays | {"features": arrays["features"] * 1.01})
            planted += 1
    assert planted == 12  # noise, ramp and block, large, photographs, golden, noise probed; in float64 and in float32
    with pytest.raises(ParityError, match="features"):
        convert("mixer_tiny", head="fe", **settings)
