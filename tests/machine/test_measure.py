"""Stage times and peak memory."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from utils.machine import measure

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets the peak")


def touch(megabytes: int) -> None:
    np.ones(megabytes * MB, dtype=np.uint8).sum()


@pytest.fixture
def clock(monkeypatch):
    """Stands still unless it is moved: a real one would count what else the machine does."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_a_stage_lasts_as_long_as_its_block(clock):
    stages = measure.Stages()
    with stages("load"):
        clock.now += 2
    clock.now += 8  # nobody's
    with stages("export"):
        pass
    assert stages.seconds == {"load": 2, "export": 0}


def test_a_stage_entered_again_adds_up(clock):
    stages = measure.Stages()
    for _ in range(2):
        with stages("verify"):
            clock.now += 3
    assert stages.seconds == {"verify": 6}


def test_a_failing_stage_is_still_recorded_and_its_error_passes():
    stages = measure.Stages()
    with pytest.raises(KeyError), stages("export"):
        raise KeyError("stem")
    peak = stages.memory_mb["export"]
    touch(int(peak) + 50)
    with stages("save"):
        pass
    assert set(stages.seconds) == {"export", "save"}
    assert stages.memory_mb["export"] == peak < stages.memory_mb["save"]  # it was closed by then


@linux
def test_the_peak_is_of_this_process_not_of_the_one_that_began_it():
    held = np.ones(500 * MB, dtype=np.uint8)  # by the parent, while it starts the child
    code = "from utils.machine.measure import peak_memory_mb; print(peak_memory_mb())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < held.nbytes / MB


def test_peak_memory_is_in_megabytes_and_sees_an_allocation():
    before = measure.peak_memory_mb()
    assert 5 < before < 100_000
    touch(int(before) + 50)  # surely above any earlier peak of this process
    assert measure.peak_memory_mb() >= before + 50


@linux
def test_each_stage_has_its_own_peak_memory():
    stages = measure.Stages(per_stage_memory=True)
    with stages("large"):
        touch(200)
    with stages("small"):
        touch(1)
    assert stages.per_stage_memory
    assert stages.memory_mb["large"] - stages.memory_mb["small"] > 150
    assert stages.peak_memory_mb >= stages.memory_mb["large"]  # the resets do not lose the process's peak


@linux
def test_an_outer_stage_keeps_the_peak_of_its_inner_ones():
    stages = measure.Stages(per_stage_memory=True)
    with stages("outer"):
        with stages("large"):
            touch(200)
        with stages("small"):
            touch(1)
    assert stages.memory_mb["outer"] >= stages.memory_mb["large"] > stages.memory_mb["small"] + 150


def test_where_the_peak_cannot_be_reset_the_process_peak_stands_in(monkeypatch):
    monkeypatch.setattr(measure, "reset_peak_memory", lambda: False)
    stages = measure.Stages(per_stage_memory=True)
    with stages("load"):
        touch(1)
    assert not stages.per_stage_memory
    assert stages.memory_mb["load"] == pytest.approx(measure.peak_memory_mb(), rel=0.2)


@linux
def test_nothing_is_reset_unless_asked_for(monkeypatch):
    monkeypatch.setattr(measure, "reset_peak_memory", lambda: pytest.fail("reset without being asked to"))
    with measure.Stages()("load"):
        touch(1)
