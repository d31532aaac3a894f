"""The Makefile and .ci/setup: what a person types, as far as it goes without minutes of installing."""

import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from server import Server, respond
from wheels import write_wheel

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "Makefile",
    ".ci",
    "pyproject.toml",
    "constraints.txt",
    *(path.name for path in ROOT.glob("requirements*.txt")),
)
TORCH = next(line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if line.startswith("torch=="))
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Stands for an interpreter: answers .ci/setup's questions, notes what pip is asked to do, fails it on demand. What is
# asked of another index than the default one, the real pip answers, into a folder of its own.
STUB = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
*"version_info"*) echo "{version}" ;;
*"ensurepip"*) {ensurepip} ;;
*"realpath"*) echo "{path}" ;;
"-m venv"*) for venv; do :; done; mkdir -p "$venv/bin"; cp "{path}" "$venv/bin/python"; echo venv >>"{log}" ;;
*"--index-url"*) echo "$*" >>"{log}"; exec {python} "$@" --target "{path} installed" ;;
"-m pip install"*) echo "$*" >>"{log}"; [ ! -e "{log}.fail" ] ;;
"-") exec {python} "$@" ;;
"- "*) exec {python} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy, in a folder whose name has a blank and a quote, of the files that setting up needs."""
    folder = tmp_path / "a person's copy"
    folder.mkdir()
    for name in NEEDED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    return folder


def interpreter(folder, version, ensurepip="true", name="stub"):
    path = folder / name
    log = folder / "pip.log"
    text = STUB.format(version=version, ensurepip=ensurepip, path=path, log=log, python=sys.executable)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def make(folder, *arguments, **environment):
    # Whoever runs the tests may have set some of the Makefile's own variables, or some of pip's.
    own = re.findall(r"^(\w+) \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    own += ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"]
    inherited = {name: value for name, value in os.environ.items() if name not in own and not name.startswith("PIP_")}
    command = ["make", "--no-print-directory", *arguments]
    environment = inherited | {"PIP_CONFIG_FILE": os.devnull, "TORCH_INDEX": ""} | environment
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def set_up(checkout, *arguments):
    return make(checkout, "setup", f"PYTHON={interpreter(checkout, '3.12.1')}", *arguments)


@pytest.fixture
def index():
    """An index of packages on this machine."""
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def offer(index, folder, name, version, requires=""):
    """Puts a wheel into an index."""
    wheel = write_wheel(folder, name, version, requires)
    quoted = wheel.name.replace("+", "%2B")
    page, content = f'<a href="{quoted}">{wheel.name}</a>'.encode(), wheel.read_bytes()
    index.answers[f"/{name}/"] = lambda handler: respond(handler, page, **{"Content-Type": "text/html"})
    index.answers[f"/{name}/{quoted}"] = lambda handler: respond(handler, content)


def installs(folder):
    log = folder / "pip.log"
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def test_help_is_the_default_and_names_every_target():
    done = make(ROOT)
    assert done.returncode == 0
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.search(r"^\.PHONY: help (.+)$", makefile, re.MULTILINE)[1].split()
    assert {"setup", "convert", "test"} <= set(targets)
    for target in targets:
        assert f"make {target} " in done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 24  # a terminal's height: the first line is still there when the last is printed
    assert [line for line in lines if len(line) > 100] == []


def words(folder, *arguments, **environment):
    """Of the last command that make would run, as a shell splits it."""
    command = make(folder, "-n", *arguments, **environment).stdout.replace("\\\n", " ").splitlines()[-1]
    return shlex.split(command)[1:]


def test_convert_passes_every_variable_on_as_one_word_and_leaves_the_rest_to_the_notebook():
    assert words(
        ROOT, "convert", "VARIANT=mixer_tiny", "HEAD=fe", "CHECKPOINT=my files/it's.npz",
        "OUTPUT_DIR=a  b", "IMAGE_SIZE=0", "SEED=7", "OPERATIONS=plain",
    ) == [
        "-m", "utils.convert", "--variant", "mixer_tiny", "--head", "fe", "--checkpoint", "my files/it's.npz",
        "--output-dir", "a  b", "--image-size", "0", "--seed", "7", "--operations", "plain",
    ]  # fmt: skip
    assert words(ROOT, "convert") == [
        "-m", "utils.convert", "--variant", "convmixer_768_32", "--head", "classification", "--checkpoint", "auto",
        "--output-dir", "exports",
    ]  # fmt: skip


def test_release_passes_its_variables_on_and_never_mixes_official_with_synthetic_weights():
    assert words(ROOT, "release", "VARIANTS=mixer_tiny, convmixer", "JOBS=2", "BATCH_ARGS=--dry-run") == [
        "-m", "utils.batch", "--variants", "mixer_tiny, convmixer", "--heads", "all", "--checkpoint", "official",
        "--output-dir", "exports", "--jobs", "2", "--dry-run",
    ]  # fmt: skip
    assert "synthetic" in words(ROOT, "release", "CHECKPOINT=synthetic")
    assert words(ROOT, "release", "FORMATS=saved_model, onnx")[-2:] == ["--formats", "saved_model, onnx"]


@pytest.mark.parametrize(
    ("version", "ensurepip", "said"),
    [
        ("3.10.4", "true", "3.10.4"),
        ("3.14.0", "true", "3.14.0"),
        ("", "true", "does not run"),
        ("3.12.1", "false", "venv or ensurepip module is missing"),
    ],
)
def test_python_that_cannot_be_used_is_named_with_what_is_wanted(checkout, version, ensurepip, said):
    path = interpreter(checkout, version, ensurepip)
    done = make(checkout, "setup", f"PYTHON={path}")
    assert done.returncode != 0
    assert "3.11, 3.12 or 3.13 is needed" in done.stderr
    assert f"{path}: " in done.stderr
    assert said in done.stderr
    assert not (checkout / ".venv").exists()


def test_python_on_path_that_fails_is_passed_over_for_the_next(checkout):
    folder = checkout / "bin"  # all of PATH, so that no other interpreter of this machine is found
    folder.mkdir()
    for tool in ("sh", "make", "cat", "cp", "dirname", "mkdir", "rm", "touch"):
        (folder / tool).symlink_to(shutil.which(tool))
    interpreter(folder, "", name="python3")  # as a pyenv shim without its version
    interpreter(folder, "3.10.1", name="python")
    assert "python3: is not there or does not run" in make(checkout, "setup", PATH=str(folder)).stderr
    interpreter(folder, "3.13.2", name="python3.13")
    done = make(checkout, "setup", PATH=str(folder))
    assert "Building .venv with Python 3.13.2" in done.stdout
    assert done.returncode == 0


def test_second_setup_does_nothing_and_a_changed_pin_installs_again(checkout):
    first = set_up(checkout)
    assert first.returncode == 0, first.stderr
    assert installs(checkout) == [
        "venv",
        "-m pip install --quiet -r requirements.txt -r requirements-dev.txt -c constraints.txt",
        "-m pip install --quiet --no-deps -r requirements-onnx-tf.txt",
        "-m pip install --quiet --no-deps --no-build-isolation -e .",
    ]
    second = set_up(checkout)
    assert (second.stdout, second.stderr, len(installs(checkout))) == ("", "", 4)
    for changes, name in enumerate(("requirements-dev.txt", "constraints.txt"), 1):
        with (checkout / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        set_up(checkout)
        assert installs(checkout)[1 + 3 * changes :] == installs(checkout)[1:4]  # into the environment that is there


# --- PyTorch's CPU build


@pytest.fixture
def linux(checkout, monkeypatch):
    """`uname` says Linux, wherever the tests run; the file may be overwritten."""
    uname = checkout / "system" / "uname"
    uname.parent.mkdir()
    uname.write_text("#!/bin/sh\necho Linux\n")
    uname.chmod(0o755)
    monkeypatch.setenv("PATH", f"{uname.parent}{os.pathsep}{os.environ['PATH']}")
    return uname


def test_on_linux_pytorch_and_nothing_else_comes_from_the_index_of_its_cpu_build(checkout, tmp_path, index, linux):
    offer(index, tmp_path, "torch", TORCH.removeprefix("torch==") + "+cpu", "requests")
    offer(index, tmp_path, "requests", "99.0")
    done = set_up(checkout, f"TORCH_INDEX={index.url}")
    assert done.returncode == 0, done.stderr
    assert "default index" not in done.stdout
    installed = {path.name for path in (checkout / "stub installed").iterdir()} - {"__pycache__"}
    assert installed == {"torch.py", f"{TORCH.replace('==', '-')}+cpu.dist-info"}
    assert {path.split("/")[1] for path in index.paths()} == {"torch"}
    assert installs(checkout)[1].endswith(f"--index-url {index.url} {TORCH}")
    assert installs(checkout)[2].endswith("-r requirements.txt -r requirements-dev.txt -c constraints.txt")


@pytest.mark.parametrize("why", ["not there", "empty", "other version"])
def test_where_that_index_does_not_give_it_pytorch_comes_from_the_default_one_and_setup_says_so(
    checkout, tmp_path, index, linux, why
):
    address = index.url
    if why == "other version":
        offer(index, tmp_path, "torch", "1.0+cpu")
    if why == "not there":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    done = set_up(checkout, f"TORCH_INDEX={address}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{address} does not give {TORCH}: PyTorch comes from the default index" in done.stdout
    assert [line.startswith("-m pip install") for line in installs(checkout)] == [False, True, True, True, True]
    assert "--retries 0 --timeout 10 " in installs(checkout)[1]  # a silent server is not waited for
    assert set_up(checkout, f"TORCH_INDEX={address}").stdout == ""  # nor asked a second time


def test_elsewhere_and_where_cuda_is_wanted_the_default_index_is_the_only_one(checkout, linux):
    set_up(checkout)
    linux.write_text("#!/bin/sh\necho Darwin\n")
    set_up(checkout, "VENV=.venv-mac", "TORCH_INDEX=http://127.0.0.1")
    assert len(installs(checkout)) == 8
    assert "--index-url" not in " ".join(installs(checkout))


def test_the_index_is_pytorch_s_unless_another_is_named():
    assert words(ROOT, "setup")[-1] == ""
    assert words(ROOT, "setup", TORCH_INDEX=None)[-1] == "https://download.pytorch.org/whl/cpu"


# --- what is left behind


def test_setup_that_was_cut_off_is_begun_anew(checkout):
    (checkout / "pip.log.fail").touch()
    assert set_up(checkout).returncode != 0
    assert not (checkout / ".venv/.ready").exists()
    (checkout / "pip.log.fail").unlink()
    done = set_up(checkout)
    assert "cut off" in done.stdout
    assert done.returncode == 0
    assert installs(checkout).count("venv") == 2


def test_clean_removes_the_environment_and_keeps_what_was_exported(checkout):
    for name in (".venv/pyvenv.cfg", "exports/model.tar.gz", "utils/__pycache__/x.pyc", "precious/file"):
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert make(checkout, "clean").returncode == 0
    assert make(checkout, "clean", "VENV=precious").returncode == 0  # no virtual environment: not touched
    left = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert {"exports/model.tar.gz", "precious/file"} <= left
    assert not left & {".venv/pyvenv.cfg", "utils/__pycache__/x.pyc"}
