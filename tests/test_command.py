"""A command that is to end with the process that started it."""

import os
import subprocess
import sys

from utils.command import PARENT_VARIABLE, run_command
from utils.errors import ParameterError

CHILD = "import time; from utils.command import run_command; run_command(lambda: time.sleep(0.5) or 'done', 'ended')"
PARENT = f"""
import subprocess, sys
from utils.command import run_command
run_command(lambda: subprocess.check_output([sys.executable, "-c", {CHILD!r}], text=True), "ended")
"""


def run(code, parent):
    environment = os.environ | {PARENT_VARIABLE: str(parent)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_only_the_command_itself_ends_with_its_parent_and_not_what_it_starts():
    assert run(PARENT, os.getpid()).stdout.strip() == "done"
    done = run(CHILD, 2**22 + 1)  # no process has this number
    assert (done.stdout, done.stderr.strip()) == ("", "ended")


def test_who_called_make_reads_how_make_takes_a_parameter(capsys, monkeypatch):
    def refused():
        raise ParameterError("use checkpoint='synthetic'")

    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert (run_command(refused, ""), "CHECKPOINT=synthetic" in capsys.readouterr().err) == (1, False)
    monkeypatch.setenv("MAKELEVEL", "1")
    assert (run_command(refused, ""), "CHECKPOINT=synthetic" in capsys.readouterr().err) == (1, True)


def test_an_interrupt_that_says_what_is_left_is_heard(capsys):
    def interrupted(*said):
        raise KeyboardInterrupt(*said)

    assert run_command(interrupted, "nothing") == 130
    assert run_command(lambda: interrupted("all of it"), "nothing") == 130
    assert capsys.readouterr().err.split() == ["nothing", "all", "of", "it"]
