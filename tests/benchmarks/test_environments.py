"""Environments are kept, and made anew when they would be of something else."""

import subprocess
import sys

import pytest

from benchmarks import environments


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Commands that would make an environment; `venv` leaves only its folder, and pip fails for "refused"."""
    commands, run = [], subprocess.run

    def pretend(command, **options):
        if "--version" in command:
            return run(command, **options)
        commands.append(command)
        if "venv" in command:
            (tmp_path / "environments" / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / "environments" / "a" / "complete").unlink(missing_ok=True)  # --clear
        return subprocess.CompletedProcess(command, int("refused" in command), "", "noise\nERROR: no refused\n")

    monkeypatch.setattr(environments, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(environments.subprocess, "run", pretend)
    return commands


def test_an_environment_is_made_once(made, tmp_path):
    for _ in range(2):
        assert environments.interpreter("a", ["numpy==1"]) == tmp_path / "environments" / "a" / "bin" / "python"
    assert len(made) == 2  # venv and pip


def test_an_environment_of_other_requirements_is_made_anew(made):
    environments.interpreter("a", ["numpy==1"])
    environments.interpreter("a", ["numpy==2"])
    assert len(made) == 4


def test_an_environment_of_another_python_is_made_anew(made, monkeypatch):
    environments.interpreter("a", ["numpy==1"])
    monkeypatch.setattr(environments, "version_of", lambda python: "Python 3.99.0")
    environments.interpreter("a", ["numpy==1"])
    assert len(made) == 4


def test_what_pip_refuses_is_told_and_not_kept(made):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no refused"):
            environments.interpreter("a", ["refused"])
    assert len(made) == 4


def test_the_version_of_a_python_that_is_not_there_is_empty():
    assert environments.version_of(sys.executable).startswith("Python 3.")
    assert environments.version_of("no-such-python") == ""
