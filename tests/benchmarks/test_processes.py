"""A worker is a process of its own. It imports this module, so no framework is imported here."""

import os

import pytest

from benchmarks import processes


def adder(environment_name):
    """What a worker process prepares: sums, and a look at its own environment."""

    def call(*numbers):
        if not numbers:
            return os.getpid(), os.environ.get(environment_name)
        return sum(numbers)

    return call


def ends(code):
    def call():
        os._exit(code)

    return call


def test_a_worker_is_another_process_with_its_own_environment():
    before = dict(os.environ)
    with processes.Worker("sums", adder, "SOME_SWITCH", environment={"SOME_SWITCH": "1"}) as worker:
        assert worker(1, 2) == 3
        pid, switch = worker()
        assert pid != os.getpid()
        assert switch == "1"
        assert worker() == (pid, "1")  # the same one, call after call
    assert dict(os.environ) == before


def test_a_failure_in_a_worker_is_told_with_its_traceback():
    with (
        processes.Worker("sums", adder, "X") as worker,
        pytest.raises(RuntimeError, match=r"for sums failed:(?s:.*)TypeError"),
    ):
        worker(1, "a")


def test_a_worker_that_dies_is_told():
    with (
        processes.Worker("death", ends, 7) as worker,
        pytest.raises(RuntimeError, match="the process for death died"),
    ):
        worker()
