"""Computes what a `.keras` file gives on one backend, where no other framework can be imported.

    KERAS_BACKEND=jax python -m utils.keras_models.worker JOB ...

A JOB is a folder with `job.json` and `inputs.npz`; see `processes`, which writes them and reads the `answer.npz` that
this leaves. Arrays come and go without pickle.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConversionError
from utils.keras_models.candidate import Candidate, load_candidate
from utils.keras_models.conventions import BACKENDS

FRAMEWORKS = {
    "tensorflow": ("tensorflow", "tf_keras", "tensorflow_hub"),
    "jax": ("jax", "jaxlib", "flax"),
    "torch": ("torch",),
}


class Without:
    """A finder of modules that does not find some packages, as if they were not installed.

    Not an error in their stead, since libraries ask whether a package is there; nor None in `sys.modules`, where they
    look for one that is imported.
    """

    def __init__(self, packages: list[str], finder: Any) -> None:
        self._packages, self._finder = frozenset(packages), finder

    def find_spec(self, name: str, *others: Any) -> ModuleSpec | None:
        """None for those packages and what is in them."""
        return None if name.partition(".")[0] in self._packages else self._finder.find_spec(name, *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)  # versions of what is installed are looked for here, too


def answer(job: Path) -> None:
    """Does one job, in its folder."""
    request = json.loads((job / "job.json").read_text(encoding="utf-8"))
    candidate = load_candidate(Path(request["file"]), request["family"])
    with np.load(job / "inputs.npz", allow_pickle=False) as inputs:
        np.savez(job / "answer.npz", **dict(_computed(candidate, request, inputs)))


def _computed(candidate: Candidate, request: dict, inputs: np.lib.npyio.NpzFile) -> Iterator[tuple[str, np.ndarray]]:
    """What is asked for, each array by what it is, as `processes.Computed` asks for it."""
    for name in inputs.files:
        yield f"outputs {name}", candidate(inputs[name])
    if request["factors"]:
        with candidate.scaled_variables(lambda key: request["factors"].get(key, 1.0)):
            yield "probed", candidate(inputs[request["gradients"]])
    yield from ((f"variable {key}", array) for key, array in candidate.variables().items())
    for mode in request["modes"]:
        found = candidate.gradients(inputs[request["gradients"]], training=mode == "training")
        yield from ((f"{mode} gradient {key}", array) for key, array in found.items() if array is not None)
    if request["training"]:
        output, statistics = candidate.training_pass(inputs[request["training"]])
        yield "training mode", output
        yield from ((f"statistic {key}", array) for key, array in statistics.items())
    loaded = [name for names in FRAMEWORKS.values() for name in names if name in sys.modules]
    yield "frameworks", np.array(loaded)


def main(jobs: list[str]) -> int:
    """Exit status: 0, or 1 where a job's file is wrong or the backend is missing; then stderr's last line says why."""
    backend = os.environ.get("KERAS_BACKEND", "")
    if backend not in BACKENDS or not jobs:
        print(f"usage: KERAS_BACKEND={'|'.join(BACKENDS)} python -m utils.keras_models.worker JOB ...", file=sys.stderr)
        return 2
    others = [package for name, packages in FRAMEWORKS.items() if name != backend for package in packages]
    sys.meta_path[:] = [Without(others, finder) for finder in sys.meta_path]
    try:
        for job in jobs:
            answer(Path(job))
    except ConversionError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
