"""What a notebook's first cell does in Colab: nothing that is there is touched, and no version passes unnamed."""

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pip
import pytest

from utils.errors import ConversionError
from utils.notebook import colab

ROOT = Path(__file__).resolve().parents[2]
PINNED = colab.pins(ROOT / "requirements.txt") | colab.pins(ROOT / "requirements-onnx-tf.txt")
PINS = {colab.canonical(name): version for name, version in PINNED.items()}


@pytest.fixture
def there(monkeypatch):
    """What is installed, as a dict that pip changes; every pip command is noted, and fails for what is in `refused`."""
    installed, commands, refused = dict(PINS), [], set()

    def run(command, **_kwargs):
        constraints = Path(command[command.index("--constraint") + 1]).read_text().splitlines()
        commands.append({"command": command, "constraints": constraints})
        name, _, version = command[-1].partition("==")
        if command[-1] in refused:
            return subprocess.CompletedProcess(command, 1, "", f"noise\nERROR: no {command[-1]} for this numpy\n")
        installed[colab.canonical(name)] = version
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(colab, "installed_versions", lambda: dict(installed))
    monkeypatch.setattr(colab.subprocess, "run", run)
    return SimpleNamespace(installed=installed, commands=commands, refused=refused)


def test_what_is_there_in_any_version_is_left_alone(there):
    there.installed.update({"tensorflow": "2.19.0", "torch": "9.0.0", "numpy": "1.0"})
    for name in colab.COMMANDS_ONLY:  # not needed in a notebook that is open
        del there.installed[name]
    assert colab.install_missing() == []
    assert there.commands == []
    assert set(colab.COMMANDS_ONLY) <= set(PINNED)


def test_only_what_is_missing_is_installed_and_everything_else_is_held(there):
    for name in ("onnx", "onnx-tf"):
        del there.installed[name]
    there.installed.update({"torch": "2.9.0+cpu", "python-apt": "odd version"})
    assert colab.install_missing() == [f"{name} {PINNED[name]}" for name in ("onnx", "onnx-tf")]
    first, second = there.commands
    assert first["command"][-1] == f"onnx=={PINNED['onnx']}"
    assert {"torch==2.9.0+cpu", f"numpy=={PINNED['numpy']}"} <= set(first["constraints"])
    assert not [line for line in first["constraints"] if line.startswith(("onnx==", "python-apt"))]
    # onnx-tf alone comes without its dependencies, which are outdated.
    assert ["--no-deps" in call["command"] for call in (first, second)] == [False, True]


def test_what_cannot_be_installed_is_named_with_what_pip_said(there):
    del there.installed["flax"]
    there.refused.update({f"flax=={PINNED['flax']}", "flax"})
    with pytest.raises(ConversionError, match=r"flax could not be installed.*no flax for this numpy"):
        colab.install_missing()


def test_set_up_tells_what_it_did_and_what_it_does_not_know(there, capsys):
    del there.installed["onnx"]
    there.installed["tensorflow"] = "99.1"
    colab.set_up()
    printed = capsys.readouterr().out
    assert f"Installed: onnx {PINNED['onnx']}." in printed
    assert re.search(r"^tensorflow +99\.1 +.*2\.21\.0", printed, re.MULTILINE)


def test_every_unknown_version_is_in_one_table():
    known = {name: [version] for name, version in PINNED.items()} | {"python": list(colab.PYTHONS)}
    known |= {"torch": ["2.9.0", "2.13.0"]}
    there = PINS | {"torch": "2.9.0+cpu"}
    assert colab.version_report(there, known) == "Every version is one that this was tested with."
    table = colab.version_report(there | {"torch": "2.10.0"}, known | {"python": ["9.9"]})
    assert re.search(r"^torch +2\.10\.0 +2\.9\.0, 2\.13\.0$", table, re.MULTILINE)
    assert re.search(r"^python .* 9\.9$", table, re.MULTILINE)
    assert len(table.splitlines()) == 4


def test_known_are_the_pins_and_what_runs_that_passed_were_made_with(monkeypatch, tmp_path):
    runs = [
        {"runtime": "a", "verdict": "yes", "versions": {"torch": "2.9.0", "jax": "0.7.2"}},
        {"runtime": "b", "verdict": "yes", "versions": {"torch": "2.8.0"}},
        {"runtime": "b", "verdict": "ParityError: logits", "versions": {"torch": "2.8.0"}},
    ]
    (tmp_path / "colab.json").write_text(json.dumps({"notes": {}, "samples": runs}))
    monkeypatch.setattr(colab, "RUNS", tmp_path / "colab.json")
    known = colab.known_versions()
    assert known["torch"] == ["2.9.0", PINNED["torch"]]
    assert known["jax"] == ["0.7.2", PINNED["jax"]]
    monkeypatch.setattr(colab, "RUNS", tmp_path / "none.json")
    assert colab.known_versions()["torch"] == [PINNED["torch"]]


@pytest.mark.parametrize("notebook", sorted(ROOT.glob("*.ipynb")), ids=lambda path: path.name)
def test_every_notebook_sets_up_colab_alike(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    first = json.loads((ROOT / "conversion_convmixer.ipynb").read_text(encoding="utf-8"))["cells"][2]["source"]
    assert [source for source in sources if "google.colab" in source] == ["".join(first)] == sources[:1]
    assert sources[0].rstrip().endswith("set_up()")


@pytest.mark.parametrize(
    ("module", "variable", "sets_up"),
    [("google.colab", "ANY", True), ("any", "KAGGLE_KERNEL_RUN_TYPE", True), ("any", "ANY", False)],
)
def test_the_set_up_cell_knows_colab_and_kaggle(monkeypatch, module, variable, sets_up):
    cell = json.loads((ROOT / "conversion_convmixer.ipynb").read_text(encoding="utf-8"))["cells"][2]["source"]
    (condition,) = re.findall(r"^if (.*):$", "".join(cell), re.MULTILINE)
    monkeypatch.setitem(sys.modules, module, sys)
    monkeypatch.setenv(variable, "Batch")
    assert eval(condition) is sets_up  # noqa: S307


def write_wheel(folder, name, version, requires=""):
    """The least that pip takes for one: a module that says its version, and needs what `requires` says."""
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_real_pip_downgrades_nothing_for_what_it_installs_and_a_pin_gives_way(tmp_path):
    wheels, root = tmp_path / "wheels", tmp_path / "root"
    wheels.mkdir(), root.mkdir()
    write_wheel(wheels, "framework", "1.0")
    write_wheel(wheels, "framework", "2.0")
    write_wheel(wheels, "needed", "3.0", "framework<2")
    write_wheel(wheels, "needed", "2.0", "framework>=2")
    (root / "requirements.txt").write_text("framework==1.0\nneeded==3.0\n")
    (root / "requirements-onnx-tf.txt").write_text("")
    venv.create(tmp_path / "venv", with_pip=False)  # unpacking a pip takes a minute on a slow disk; this one's will do
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (site / "pip").symlink_to(Path(pip.__file__).parent)
    python = tmp_path / "venv" / "bin" / "python"
    local = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_EXTRA_INDEX_URL": "", "PYTHONPATH": str(ROOT)}
    environment = os.environ | local | {"PIP_CONFIG_FILE": os.devnull}
    subprocess.run([python, "-m", "pip", "install", "-q", "framework==2.0"], env=environment, check=True)
    code = f"""
import pathlib
from utils.notebook import colab
colab.ROOT = pathlib.Path({str(root)!r})
print(colab.install_missing())
import framework, needed
print(framework.version, needed.version)
"""
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["Installing needed ...", "['needed 2.0']", "2.0 2.0"], done.stderr


IMPORT = "from utils.machine.hub_compat import import_hub\nhub = import_hub()\n"
HIDING = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def hiding(cls, name, *rest, **named):
    return None if name == {hidden!r} else find(name, *rest, **named)
importlib.machinery.PathFinder.find_spec = classmethod(hiding)
sys.modules.pop("pkg_resources", None)
{code}
"""


@pytest.fixture
def run_with_hub(tmp_path):
    """Runs code where tensorflow_hub is three lines that ask what the real one asks, and `hidden` is not installed."""
    (tmp_path / "tensorflow.py").write_text(
        "import sys\nsaw = 'pkg_resources' in sys.modules\n__version__ = '2.21.0'\n"
    )
    (tmp_path / "tensorflow_hub.py").write_text(
        "import tensorflow as tf\nfrom pkg_resources import parse_version\n"
        "newer = parse_version('2.10') > parse_version('2.9')\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def call(code, hidden="pkg_resources"):
        command = [sys.executable, "-c", HIDING.format(hidden=hidden, code=code)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return call


def test_tensorflow_hub_is_imported_where_setuptools_has_no_pkg_resources(run_with_hub, tmp_path):
    assert "No module named 'pkg_resources'" in run_with_hub("import tensorflow_hub").stderr
    code = (
        f"{IMPORT}import tensorflow, tensorflow_hub\n"
        "print(hub.newer, hub is tensorflow_hub, tensorflow.saw, 'pkg_resources' in sys.modules)"
    )
    done = run_with_hub(code)
    assert done.stdout.split() == ["True", "True", "False", "False"], done.stderr
    # Where it is there, it stays setuptools' own.
    (tmp_path / "pkg_resources.py").write_text("def parse_version(text):\n    return float(text)\n")
    done = run_with_hub(f"{IMPORT}print(hub.newer)", hidden="")
    assert done.stdout.split() == ["False"], done.stderr  # 2.10 < 2.9 as floats: it was this module that was asked


def test_missing_tensorflow_hub_is_an_error_that_says_what_to_do(run_with_hub):
    said = run_with_hub(IMPORT, hidden="tensorflow_hub").stderr
    assert "ConversionError: tensorflow-hub is not installed. Install it: pip install" in said


def test_colab_offers_files_and_other_places_nothing(monkeypatch, tmp_path):
    shown, fetched = [], []
    button = lambda **given: SimpleNamespace(**given, on_click=lambda act: shown.append((given["description"], act)))  # noqa: E731
    monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(Button=button))
    colab.offer_downloads(tmp_path / "a.tar.gz")
    assert shown == []
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "google.colab.files", SimpleNamespace(download=fetched.append))
    colab.offer_downloads(tmp_path / "a.tar.gz", tmp_path / "b.keras")
    for _, press in shown:
        press(None)
    assert fetched == [str(tmp_path / "a.tar.gz"), str(tmp_path / "b.keras")]
