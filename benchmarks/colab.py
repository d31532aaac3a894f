"""Runs the notebooks as Colab does, without Colab: `python -m benchmarks.colab`.

A runtime is an environment with what Colab has (benchmarks/runtimes.toml), made once under the cache folder (about 8 GB
each, for torch's CUDA libraries), by the Python that it names, which must be on PATH. Every notebook runs alone in an
empty folder, with a kernel of a fresh copy of that environment in which `google.colab` is imported. Its setup cell is
the real one: git clones the last commit of this checkout (from a local bare repository that stands for GitHub's), and
pip installs what is missing. The first notebook runs once more as on Kaggle: without `google.colab`, but with the
variable by which the setup cell knows Kaggle, whose image is built on Colab's.

A run passes when the notebook ends well and nothing that Colab had has another version afterwards. Leaves `colab` in
assets/tables, as .md and .json; utils/notebook/colab.py takes the versions that it knows from there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import command, environments
from utils.artefact.manifest import REPOSITORY
from utils.notebook import colab
from utils.tables import markdown

ROOT = command.ROOT
RUNTIMES = tomllib.loads((ROOT / "benchmarks" / "runtimes.toml").read_text(encoding="utf-8"))
# What Colab may have one day: the newest of everything that its last one has, a setuptools without pkg_resources too.
*_, _LAST = RUNTIMES.values()
RUNTIMES["newest"] = _LAST | {"requirements": re.sub(r"==\S+", "", _LAST["requirements"])}
START_TIMEOUT_SECONDS = 600  # of a kernel: on a machine that does much else, a first import from a cold disk takes long
SHOWN = ("tensorflow", "torch", "jax", "numpy", "setuptools")
_VERSIONS = """import json, platform
from utils.notebook import colab
print(json.dumps({"python": platform.python_version(), **colab.installed_versions()}))"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the table, print it. Exit status 1 when a notebook did not run or something there was replaced."""
    parser = command.parser("colab", __doc__)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="which of them")
    options = parser.parse_args(arguments)
    samples = []
    for runtime in options.runtimes:
        requirements, python = RUNTIMES[runtime]["requirements"].split(), f"python{RUNTIMES[runtime]['python']}"
        environment = environments.interpreter(f"colab-{runtime}", requirements, python).parent.parent
        with tempfile.TemporaryDirectory() as scratch, _pretended(Path(scratch)):
            for place, notebook, parameters in runs(Path(scratch)):
                found = run(place, notebook, parameters, environment, Path(scratch))
                samples.append({"runtime": runtime, "place": place, **found})
                print(f"{runtime}, {place}, {notebook.name}: {found['verdict']}\n{found['said']}", flush=True)
    notes = command.notes("colab", arguments, ("papermill",)) | {
        "method": "every notebook with a tiny model, alone, in a kernel of a fresh copy of the runtime's environment, "
        "set up by its own first cell; passed when it ended well and nothing that was there has another version",
    }
    told = ("runtime", "place", "notebook")
    command.leave(options, "colab", "Notebooks in Colab's environment, simulated", notes, table, samples, told)
    return 0 if all(sample["verdict"] == "yes" for sample in samples) else 1


def runs(scratch: Path) -> list[tuple[str, Path, dict[str, Any]]]:
    """Place, notebook and parameters: all notebooks as in Colab, then the first as on Kaggle, apart from the others.

    The parameters are for tiny models; one notebook takes what another made.
    """
    exports = scratch / "exports"
    common = {"checkpoint": "synthetic", "image_size": 48}
    parameters = {
        "conversion_convmixer.ipynb": {"variant": "convmixer_tiny", **common},
        "conversion_mlpmixer.ipynb": {"variant": "mixer_tiny", "head": "fe", **common},
        "classification.ipynb": {"model": str(exports / "convmixer_tiny_classification_synthetic")},
        "fine-tune.ipynb": {"model": str(exports / "mixer_tiny_fe_synthetic"), "dataset": "digits", "epochs": 1},
    }
    found = [("Colab", ROOT / name, {**given, "output_dir": str(exports)}) for name, given in parameters.items()]
    _, notebook, given = found[0]
    return [*found, ("Kaggle", notebook, given | {"output_dir": str(scratch / "kaggle")})]


def run(place: str, notebook: Path, parameters: Mapping[str, Any], environment: Path, scratch: Path) -> dict[str, Any]:
    """One notebook in one environment: verdict, what the setup cell said, what it installed, versions, seconds."""
    import nbformat
    import papermill

    content = Path(tempfile.mkdtemp(prefix="content-", dir=scratch))
    with _copy(environment) as copy:
        python, before, started = copy / "bin" / "python", _versions(copy), time.monotonic()
        _kernel(scratch, python, place)
        verdict = "yes"
        try:
            papermill.execute_notebook(
                str(notebook),
                str(content / notebook.name),
                dict(parameters),
                kernel_name="colab",
                cwd=str(content),
                start_timeout=START_TIMEOUT_SECONDS,
                progress_bar=False,
                extra_arguments=["--log-level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            verdict = f"{error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}"[:300]
        seconds, after = time.monotonic() - started, _versions(copy)
    replaced = {name: [version, after.get(name)] for name, version in before.items() if after.get(name) != version}
    if replaced and verdict == "yes":
        verdict = f"replaced {replaced}"
    cells = nbformat.read(content / notebook.name, as_version=4).cells
    setup = next(cell for cell in cells if "google.colab" in cell.source and cell.cell_type == "code")
    pinned = [name for file in ROOT.glob("requirements*.txt") for name in colab.pins(file)]
    return {
        "notebook": notebook.name,
        "python": before["python"],
        "verdict": verdict,
        "said": "".join(output.get("text", "") for output in setup.outputs).strip(),
        "installed": {name: version for name, version in after.items() if name not in before},
        "versions": {name: after[key].partition("+")[0] for name in pinned if (key := colab.canonical(name)) in after},
        "seconds": seconds,
    }


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each notebook in each runtime."""
    told = ("runtime", "python", "place", "notebook", "verdict", "run")
    rows = []
    for sample in samples:
        runtime, python, place, notebook, verdict, when = (sample[key] for key in told)
        versions = [sample["versions"].get(name, "") for name in SHOWN]
        installed = ", ".join(f"{name} {version}" for name, version in sample["installed"].items())
        rows.append([runtime, python, *versions, place, notebook, verdict, installed, f"{sample['seconds']:.0f}", when])
    return markdown(["runtime", "Python", *SHOWN, "as in", "notebook", "ran", "installed", "seconds", "run"], rows)


@contextmanager
def _copy(environment: Path) -> Iterator[Path]:
    """A copy that may be installed into: folders of its own, files by hard links, as pip replaces and never edits."""
    folder = Path(tempfile.mkdtemp(prefix=f".{environment.name}-", dir=environment.parent)) / "copy"
    try:
        yield Path(shutil.copytree(environment, folder, symlinks=True, copy_function=os.link))
    finally:
        shutil.rmtree(folder.parent)


@contextmanager
def _pretended(scratch: Path) -> Iterator[None]:
    """Surroundings in `scratch`: a HOME where GitHub is a local repository, Colab's `google.colab`, Jupyter's path."""
    bare = scratch / "repository.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(bare)], check=True)
    home = scratch / "home"
    startup = home / "Colab" / "profile_default" / "startup"
    stub = scratch / "stub" / "google" / "colab"  # `google` stays the namespace that protobuf is in
    stub.mkdir(parents=True)
    for module in ("__init__.py", "output.py"):  # JAX imports the latter where it finds the former
        (stub / module).touch()
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n")
    (home / ".gitconfig").write_text(f'[url "file://{bare}"]\n\tinsteadOf = {REPOSITORY}\n')
    with mock.patch.dict(os.environ, JUPYTER_PATH=str(scratch / "jupyter")):
        yield


def _kernel(scratch: Path, python: Path, place: str) -> None:
    """The kernel "colab": that Python, with the surroundings of Colab or Kaggle, and nothing of ours on its path."""
    folder = scratch / "jupyter" / "kernels" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    home = scratch / "home"
    environment = {
        "HOME": str(home),
        "IPYTHONDIR": str(home / place),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(scratch / "stub") if place == "Colab" else "",
        "MIXERS_CACHE": str(scratch / "cache"),
        **({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"} if place == "Kaggle" else {}),
    }
    launch = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": launch, "display_name": "Colab", "language": "python", "env": environment}
    (folder / "kernel.json").write_text(json.dumps(kernel))


def _versions(environment: Path) -> dict[str, str]:
    asking = [str(environment / "bin" / "python"), "-c", _VERSIONS]
    done = subprocess.run(asking, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
