"""Stage times, peak memory and processors."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from utils.machine import cores, measure

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of one process")


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
    assert stages.seconds == {"load": 2, "export": 7}


@linux
def test_the_peak_is_of_this_process_not_of_the_one_that_began_it_and_sees_an_allocation():
    held = np.ones(500 * MB, dtype=np.uint8)  # by the parent, while it starts the child
    code = (
        "import numpy; from utils.machine.measure import Stages; before = Stages().peak_memory_mb;"
        f"numpy.ones(100 * {MB}, 'u1'); print(before, Stages().peak_memory_mb)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(float, ran.stdout.split())
    assert before < held.nbytes / MB
    assert before + 50 <= after <= before + 200


def test_processors_are_counted_where_the_system_does_not_say_which_are_usable(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert cores.usable_cores() == 11


@linux
def test_a_process_kept_to_one_core_counts_one():
    root = Path(__file__).resolve().parents[2]
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
    code += "from utils.machine.cores import usable_cores; print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
