"""Runs the notebooks as Colab does, without Colab: `python -m benchmarks.colab --python /path/to/python3.12`.

A runtime is an environment with what Colab has, made once under the cache folder (about 8 GB each, for torch's CUDA
libraries). Every notebook runs alone in an empty folder, with a kernel of a fresh copy of that environment in which
`google.colab` is imported. Its setup cell is the real one: git clones the last commit of this checkout (from a local
bare repository that stands for GitHub's), and pip installs what is missing.

A run passes when the notebook ends well and nothing that Colab had has another version afterwards. Leaves `colab` in
assets/tables, as .md and .json; utils/notebook/colab.py takes the versions that it knows from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import command, environments
from utils.artefact.card_head import REPOSITORY
from utils.notebook import colab
from utils.tables import markdown

ROOT = colab.ROOT
# What Colab had in its runtime of that name, of what concerns us: pip-freeze.txt of
# https://github.com/googlecolab/backend-info at bd8aaa4580401a7fbf96a52fab5a7acf96f50b73.
# fmt: off
_2026_01 = {
    "numpy": "2.0.2", "protobuf": "5.29.5", "ml_dtypes": "0.5.4", "setuptools": "75.2.0", "packaging": "25.0",
    "tensorflow": "2.19.0", "keras": "3.10.0", "tf_keras": "2.19.0", "tensorflow-hub": "0.16.1",
    "tensorflow-probability": "0.25.0", "torch": "2.9.0", "jax": "0.7.2", "jaxlib": "0.7.2", "flax": "0.11.2",
    "optax": "0.2.6", "orbax-checkpoint": "0.11.31", "PyYAML": "6.0.3", "pillow": "11.3.0", "matplotlib": "3.10.0",
    "pooch": "1.8.2", "requests": "2.32.4", "tqdm": "4.67.1", "psutil": "5.9.5",
    "ipykernel": "6.17.1", "ipython": "7.34.0", "ipywidgets": "7.7.1", "traitlets": "5.7.1", "jupyter_client": "7.4.9",
}
# fmt: on
RUNTIMES = {
    "2026.01": [f"{name}=={version}" for name, version in _2026_01.items()],
    # What Colab may have one day: the newest of everything, a setuptools without pkg_resources too.
    "newest": list(_2026_01),
}
CONVERTED = ("convmixer_tiny_classification", "mixer_tiny_fe")  # what the other two notebooks take
SHOWN = ("tensorflow", "torch", "jax", "numpy", "setuptools")
_VERSIONS = "import json; from utils.notebook import colab; print(json.dumps(colab.installed_versions()))"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the table, print it. Exit status 1 when a notebook did not run or something there was replaced."""
    parser = command.parser("colab", __doc__)
    parser.add_argument("--python", default="python3.12", help="of the version that Colab has (python3.12)")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="which of them")
    options = parser.parse_args(arguments)
    samples = []
    for runtime in options.runtimes:
        environment = environments.interpreter(f"colab-{runtime}", RUNTIMES[runtime], options.python).parent.parent
        with tempfile.TemporaryDirectory() as scratch, _pretended(Path(scratch)):
            for notebook, parameters in notebooks(Path(scratch) / "exports"):
                samples.append({"runtime": runtime, **run(notebook, parameters, environment, Path(scratch))})
                print(f"{runtime}, {notebook.name}: {samples[-1]['verdict']}\n{samples[-1]['said']}", flush=True)
    words = sys.argv[1:] if arguments is None else arguments
    shown = [Path(word).name if word == options.python else word for word in words]  # nobody else has that path
    notes = command.notes("colab", shown) | {
        "method": "every notebook with a tiny model, alone, in a kernel of a fresh copy of the runtime's environment, "
        "set up by its own first cell; passed when it ended well and nothing that was there has another version",
    }
    command.leave(options, "colab", "Notebooks in Colab's environment, simulated", notes, table, samples)
    return 0 if all(sample["verdict"] == "yes" for sample in samples) else 1


def notebooks(exports: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Those that are there, with parameters for tiny models, in the order in which one takes what another made."""
    classifier, extractor = (str(exports / f"{name}_synthetic") for name in CONVERTED)
    common = {"checkpoint": "synthetic", "output_dir": str(exports)}
    tiny = {
        "conversion_convmixer.ipynb": {"variant": "convmixer_tiny", "image_size": 48, **common},
        "conversion_mlpmixer.ipynb": {"variant": "mixer_tiny", "head": "fe", "image_size": 48, **common},
        "classification.ipynb": {"model": classifier, "output_dir": str(exports)},
        "fine-tune.ipynb": {"model": extractor, "dataset": "digits", "epochs": 1, "output_dir": str(exports)},
    }
    return [(ROOT / name, parameters) for name, parameters in tiny.items() if (ROOT / name).is_file()]


def run(notebook: Path, parameters: Mapping[str, Any], environment: Path, scratch: Path) -> dict[str, Any]:
    """One notebook in one environment: verdict, what the setup cell said, what it installed, versions, seconds."""
    import nbformat
    import papermill

    content = Path(tempfile.mkdtemp(prefix="content-", dir=scratch))
    with _copy(environment) as copy:
        python, before, started = copy / "bin" / "python", _versions(copy), time.monotonic()
        _kernel(scratch, python)
        verdict = "yes"
        try:
            papermill.execute_notebook(
                str(notebook),
                str(content / notebook.name),
                dict(parameters),
                kernel_name="colab",
                cwd=str(content),
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
        "verdict": verdict,
        "said": "".join(output.get("text", "") for output in setup.outputs).strip(),
        "installed": {name: version for name, version in after.items() if name not in before},
        "versions": {name: after[key].partition("+")[0] for name in pinned if (key := colab.canonical(name)) in after},
        "seconds": seconds,
    }


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each notebook in each runtime."""
    rows = []
    for sample in samples:
        versions = [sample["versions"].get(name, "") for name in SHOWN]
        installed = ", ".join(f"{name} {version}" for name, version in sample["installed"].items())
        verdict = sample["verdict"]
        rows.append([sample["runtime"], *versions, sample["notebook"], verdict, installed, f"{sample['seconds']:.0f}"])
    return markdown(["runtime", *SHOWN, "notebook", "ran", "installed", "seconds"], rows)


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
    """Colab's surroundings in `scratch`: a HOME where GitHub is a local repository, `google.colab`, Jupyter's path."""
    bare = scratch / "repository.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(ROOT), str(bare)], check=True)
    home = scratch / "home"
    startup = home / ".ipython" / "profile_default" / "startup"
    stub = scratch / "stub" / "google" / "colab"  # `google` stays the namespace that protobuf is in
    stub.mkdir(parents=True)
    for module in ("__init__.py", "output.py"):  # JAX imports the latter where it finds the former
        (stub / module).touch()
    startup.mkdir(parents=True)
    (startup / "00-colab.py").write_text("import google.colab\n")
    (home / ".gitconfig").write_text(f'[url "file://{bare}"]\n\tinsteadOf = {REPOSITORY}\n')
    with mock.patch.dict(os.environ, JUPYTER_PATH=str(scratch / "jupyter")):
        yield


def _kernel(scratch: Path, python: Path) -> None:
    """The kernel "colab": that Python, with Colab's surroundings and nothing of ours on its path."""
    folder = scratch / "jupyter" / "kernels" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    home = scratch / "home"
    environment = {
        "HOME": str(home),
        "IPYTHONDIR": str(home / ".ipython"),
        "PYTHONPATH": str(scratch / "stub"),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "MIXERS_CACHE": str(scratch / "cache"),
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
