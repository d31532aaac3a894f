"""The Makefile and .ci/setup: what a person types, as far as it goes without minutes of installing."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands for an interpreter: answers .ci/setup's questions, notes what pip is asked to do, and fails it on demand.
STUB = """#!/bin/sh
case "$*" in
*"version_info"*) echo "{version}" ;;
*"ensurepip"*) {ensurepip} ;;
*"realpath"*) echo "{path}" ;;
"-m venv"*) for venv; do :; done; mkdir -p "$venv/bin"; cp "{path}" "$venv/bin/python"; echo venv >>"{log}" ;;
*"--index-url"*) echo "$*" >>"{log}"; [ ! -e "{log}.no-index" ] ;;
"-m pip install"*) echo "$*" >>"{log}"; [ ! -e "{log}.fail" ] ;;
"-" | "- "*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy, in a folder whose name has a blank and a quote, of the files that setting up needs."""
    folder = tmp_path / "a person's copy"
    folder.mkdir()
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "constraints.txt", *ROOT.glob("requirements*.txt")):
        shutil.copy2(path, folder)
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    return folder


def interpreter(folder, version, ensurepip="true", name="stub"):
    path = folder / name
    path.write_text(
        STUB.format(version=version, ensurepip=ensurepip, path=path, log=folder / "log", python=sys.executable)
    )
    path.chmod(0o755)
    return path


def make(folder, *arguments, **environment):
    # The tests' own environment may set some of the Makefile's variables.
    own = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    own += ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"]
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    command = ["make", "--no-print-directory", *arguments]
    environment = inherited | {"TORCH_INDEX": ""} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def set_up(checkout, *arguments):
    return make(checkout, "setup", f"PYTHON={interpreter(checkout, '3.12.1')}", *arguments)


def installs(folder):
    return (folder / "log").read_text("utf-8").splitlines()


def test_help_is_the_default_and_names_every_target():
    done = make(ROOT)
    targets = re.search(r"^\.PHONY: help (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1].split()
    assert done.returncode == 0
    assert [target for target in targets if f"make {target} " not in done.stdout] == []


def words(*arguments):
    """The last command that make would run, as a shell splits it, without the interpreter."""
    command = make(ROOT, "-n", *arguments).stdout.replace("\\\n", " ").splitlines()[-1]
    return shlex.split(command)[1:]


def test_commands_get_every_variable_as_one_word():
    given = words("convert", "CHECKPOINT=my files/it's.npz", "OUTPUT_DIR=a  b", "IMAGE_SIZE=0", "OPERATIONS=plain")
    assert given == [
        *("-m", "utils.convert", "--variant", "convmixer_768_32", "--head", "classification"),
        *("--checkpoint", "my files/it's.npz", "--output-dir", "a  b", "--image-size", "0", "--operations", "plain"),
    ]
    # A release never mixes official with synthetic weights: its default is not `auto`.
    given = words("release", "VARIANTS=mixer_tiny, convmixer", "FORMATS=saved_model, onnx", "BATCH_ARGS=--dry-run")
    assert given == [
        *("-m", "utils.batch", "--variants", "mixer_tiny, convmixer", "--heads", "all", "--checkpoint", "official"),
        *("--output-dir", "exports", "--jobs", "1", "--formats", "saved_model, onnx", "--dry-run"),
    ]


@pytest.mark.parametrize(
    ("version", "ensurepip", "said"),
    [("3.14.0", "true", "3.14.0"), ("", "true", "does not run"), ("3.12.1", "false", "venv or ensurepip module")],
)
def test_python_that_cannot_be_used_is_named_with_what_is_wanted(checkout, version, ensurepip, said):
    path = interpreter(checkout, version, ensurepip)
    done = make(checkout, "setup", f"PYTHON={path}")
    assert done.returncode != 0
    for part in ("3.11, 3.12 or 3.13 is needed", f"{path}: ", said):
        assert part in done.stderr
    assert not (checkout / ".venv").exists()


def test_python_on_path_that_fails_is_passed_over_for_the_next(checkout):
    folder = checkout / "bin"  # all of PATH, so that no other interpreter of this machine is found
    folder.mkdir()
    for tool in ("sh", "make", "cat", "cp", "dirname", "mkdir", "rm", "touch"):
        (folder / tool).symlink_to(shutil.which(tool))
    interpreter(folder, "", name="python3")  # as a pyenv shim without its version
    interpreter(folder, "3.13.2", name="python3.13")
    done = make(checkout, "setup", PATH=str(folder))
    assert (done.returncode, "Building .venv with Python 3.13.2" in done.stdout) == (0, True)


def test_second_setup_does_nothing_and_a_changed_pin_installs_again(checkout):
    assert set_up(checkout).returncode == 0
    first = installs(checkout)
    assert first == [
        "venv",
        "-m pip install --quiet -r requirements.txt -r requirements-dev.txt -c constraints.txt",
        "-m pip install --quiet --no-deps -r requirements-onnx-tf.txt",
        "-m pip install --quiet --no-deps --no-build-isolation -e .",
    ]
    second = set_up(checkout)
    assert (second.stdout, second.stderr, installs(checkout)) == ("", "", first)
    with (checkout / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    set_up(checkout)
    assert installs(checkout) == first + first[1:]  # into the environment that is there


def test_of_two_setups_at_once_the_second_waits_and_finds_all_done(checkout):
    stub = interpreter(checkout, "3.12.1")
    stub.write_text(stub.read_text().replace('echo "$*" >>', 'sleep 0.5; echo "$*" >>'))
    command = ["sh", ".ci/setup", ".venv", str(stub)]
    both = [subprocess.Popen(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in "ab"]
    said = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("waiting for it" in each for each in said) == 1
    assert installs(checkout).count("venv") == 1
    assert len(installs(checkout)) == 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is one build alone")
@pytest.mark.parametrize("answers", [True, False])
def test_on_linux_pytorch_alone_comes_from_the_index_of_its_cpu_build_if_that_answers(checkout, answers):
    if not answers:
        (checkout / "log.no-index").touch()
    done = set_up(checkout, "TORCH_INDEX=https://example.org")
    assert (done.returncode, done.stderr) == (0, "")
    (asked,) = [line for line in installs(checkout) if "--index-url" in line]
    assert re.search(r" --no-deps --retries 0 --timeout 10 --index-url https://example\.org torch==[\d.]+$", asked)
    assert ("PyTorch comes from the default index" in done.stdout) == (not answers)


def test_cuda_for_tensorflow_is_installed_where_it_is_asked_for_and_stays(checkout):
    set_up(checkout)
    assert "and-cuda" not in str(installs(checkout))
    assert set_up(checkout, "GPU=1").returncode == 0
    (asked,) = [line for line in installs(checkout) if "and-cuda" in line]
    assert re.search(r" tensorflow\[and-cuda\]==[\d.]+ -r requirements\.txt .* -c constraints\.txt$", asked)
    before = installs(checkout)
    assert set_up(checkout).returncode == 0
    assert installs(checkout) == before


def test_setup_that_was_cut_off_is_begun_anew(checkout):
    (checkout / "log.fail").touch()
    assert set_up(checkout).returncode != 0
    assert not (checkout / ".venv/.ready").exists()
    (checkout / "log.fail").unlink()
    done = set_up(checkout)
    assert (done.returncode, "cut off" in done.stdout) == (0, True)
    assert installs(checkout).count("venv") == 2


def test_clean_removes_the_environment_and_keeps_what_was_exported(checkout):
    for name in (".venv/pyvenv.cfg", "exports/model.tar.gz", "utils/__pycache__/x.pyc", "precious/file"):
        (checkout / name).parent.mkdir(parents=True)
        (checkout / name).touch()
    assert make(checkout, "clean").returncode == 0
    assert make(checkout, "clean", "VENV=precious").returncode == 0  # no virtual environment: not touched
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert {"exports/model.tar.gz", "precious/file"} <= left
    assert not left & {".venv/pyvenv.cfg", "utils/__pycache__/x.pyc"}
