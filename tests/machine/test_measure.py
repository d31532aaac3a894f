"""Stage times and peak memory."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from utils.machine import measure

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets the peak")


def test_stages_last_as_long_as_their_blocks_add_up_and_are_recorded_when_they_fail(monkeypatch):
    clock = SimpleNamespace(now=100.0)  # a real one would count what else the machine does
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    stages = measure.Stages()
    with stages("load"):
        clock.now += 2
    clock.now += 8  # nobody's
    with stages("export"):
        clock.now += 3
    with contextlib.suppress(KeyError), stages("export"):
        clock.now += 4
        raise KeyError("stem")
    with pytest.raises(KeyError), stages("export"):
        raise KeyError("its error passes")
    assert stages.seconds == {"load": 2, "export": 7}


@linux
def test_the_peak_is_of_this_process_not_of_the_one_that_began_it():
    held = np.ones(500 * MB, dtype=np.uint8)  # by the parent, while it starts the child
    code = "from utils.machine.measure import Stages; print(Stages().peak_memory_mb)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < held.nbytes / MB


@linux
def test_peak_memory_is_in_megabytes_sees_an_allocation_and_can_be_reset():
    stages = measure.Stages()
    before = stages.peak_memory_mb
    assert 5 < before < 100_000
    np.ones(int(before + 50) * MB, dtype=np.uint8)  # surely above any earlier peak of this process
    assert stages.peak_memory_mb >= before + 50
    assert measure.reset_peak_memory()
    assert stages.peak_memory_mb < before + 50
