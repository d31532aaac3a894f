"""The gate's candidates of a `.keras` file: what it computes on each backend, in a process of its own.

A process of TensorFlow cannot become one of JAX, and one where all three frameworks can be imported would not show that
a file needs one alone. So a worker computes everything that `utils.parity.proof` compares, at once, and answers with
arrays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import ParameterError, ParityError
from utils.families import FAMILIES
from utils.keras_models.candidate import Arrays, Conventions
from utils.keras_models.conventions import BACKENDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3600  # after which a worker is taken to hang


@dataclass(frozen=True)
class Job:
    """What is asked of one file.

    inputs: by name; `gradients` and `training` name those for the gradients and for the pass in training mode. modes:
    in which gradients are asked for, "inference" and "training". factor: of each of the `keys`, for the probe.
    """

    file: Path
    family: str
    inputs: Mapping[str, np.ndarray]
    factor: Callable[[str], float] = lambda key: 1.0
    modes: Sequence[str] = ("inference",)
    gradients: str = "noise"
    training: str = "photographs"
    keys: Sequence[str] = field(default=())

    def write(self, folder: Path) -> None:
        """Into the new `folder`, as `worker` reads it."""
        folder.mkdir()
        factors = {key: self.factor(key) for key in self.keys if self.factor(key) != 1}
        request = {"file": str(self.file.absolute()), "family": self.family, "factors": factors}
        request |= {"modes": list(self.modes), "gradients": self.gradients, "training": self.training}
        (folder / "job.json").write_text(json.dumps(request), encoding="utf-8")
        np.savez(folder / "inputs.npz", **self.inputs)


class Computed(Conventions):
    """What one backend made of a job, as `utils.parity.proof` asks for it.

    Arrays are read when they are asked for: all gradients together are as large as the model.
    """

    def __init__(self, job: Job, backend: str, answer: Path, folder: tempfile.TemporaryDirectory) -> None:
        super().__init__(FAMILIES[job.family].layout.KERAS_NAMES)
        self.backend, self._job, self._folder, self._probed = backend, job, folder, False
        self._answer = np.load(answer, allow_pickle=False)

    @property
    def frameworks(self) -> list[str]:
        """The frameworks that were imported in that process."""
        return self._answer["frameworks"].tolist()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Its output for inputs that were in the job."""
        if self._probed:
            return self._answer["probed"]
        names = (name for name, batch in self._job.inputs.items() if np.array_equal(batch, inputs))
        return self._answer[f"outputs {next(names)}"]

    def variables(self) -> Arrays:
        """Every variable, by its key in the checkpoint."""
        return self._all("variable ")

    def gradients(self, inputs: np.ndarray, training: bool = False) -> dict[str, np.ndarray | None]:
        """As `Candidate`'s."""
        found = self._all("training gradient " if training else "inference gradient ")
        statistics = self._all("statistic ")
        return {key: found.get(key) for key in self._keys_of("variable ") if key not in statistics}

    def training_pass(self, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """As `Candidate`'s."""
        return self._answer["training mode"], self._all("statistic ")

    @contextmanager
    def scaled_variables(self, factor: Callable[[str], float]) -> Iterator[None]:
        """Inside, the output is that of the variables multiplied by the job's factors."""
        self._probed = True
        try:
            yield
        finally:
            self._probed = False

    def _keys_of(self, kind: str) -> list[str]:
        return [name.removeprefix(kind) for name in self._answer.files if name.startswith(kind)]

    def _all(self, kind: str) -> Arrays:
        return {key: self._answer[f"{kind}{key}"] for key in self._keys_of(kind)}


def compute(jobs: Sequence[Job], backend: str) -> list[Computed]:
    """Runs the jobs on a backend, one after the other in one process, on the CPU and in float32.

    ParityError says what went wrong, such as that the backend is not installed; ParameterError for one that is none.
    """
    if backend not in BACKENDS:
        raise ParameterError(f"backend = {backend!r} is not one of Keras's that are proved: {', '.join(BACKENDS)}.")
    folder = tempfile.TemporaryDirectory(prefix=f"keras-{backend}-")
    folders = [Path(folder.name) / str(index) for index in range(len(jobs))]
    for job, each in zip(jobs, folders, strict=True):
        job.write(each)
    environment = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(filter(None, _paths()))}
    command = [sys.executable, "-m", "utils.keras_models.worker", *map(str, folders)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise ParityError(f"{jobs[0].file.name} was not computed by Keras on {backend}: {lines[-1]}")
    return [Computed(job, backend, each / "answer.npz", folder) for job, each in zip(jobs, folders, strict=True)]


def _paths() -> list[str]:
    return [str(ROOT), os.environ.get("PYTHONPATH", "")]
