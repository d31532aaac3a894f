"""The gate of a `.keras` file: on every backend, what it computes against the float64 truth of its source.

A process of TensorFlow cannot become one of JAX, and one where all three frameworks can be imported would not show that
a file needs one alone. So this module also runs as a process of its own for each backend:

    KERAS_BACKEND=jax python -m utils.keras_models.gate FOLDER

FOLDER has `request.json` and `inputs.npz`; the process computes all that is compared, and leaves `answer.npz`. Arrays
come and go without pickle.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ConversionError, ParityError
from utils.families import FAMILIES
from utils.keras_models.candidate import Arrays, Candidate, Conventions, load_candidate
from utils.keras_models.saving import BACKENDS
from utils.parity.proof import Proof
from utils.parity.report import Report

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3600  # after which a process is taken to hang
FRAMEWORKS = {
    "tensorflow": ("tensorflow", "tf_keras", "tensorflow_hub"),
    "jax": ("jax", "jaxlib", "flax"),
    "torch": ("torch",),
}
# What `Proof` compares gradients and training mode on.
_GRADIENTS, _TRAINING = "noise", "photographs"


def prove(
    proof: Proof,
    file: Path,
    family: str,
    more: Mapping[str, np.ndarray] | None = None,
    backends: Sequence[str] = BACKENDS,
) -> dict[str, Report]:
    """Compares a `.keras` file with its source on each backend.

    Args:
        proof: of the source model.
        file: the `.keras` file.
        family: the model's.
        more: inputs by name, besides the proof's own.
        backends: of Keras.

    Returns:
        A report by backend; whether they pass, the reports say.

    Raises:
        ParityError: what a backend could not compute, such as where it is not installed.
    """
    inputs = proof.inputs | dict(more or {})
    reports = {}
    for backend in backends:
        with tempfile.TemporaryDirectory(prefix=f"keras-{backend}-") as folder:
            candidate = compute(proof, file, family, inputs, backend, Path(folder))
            reports[backend] = Report(proof.compare(candidate, more), proof.source.framework)
    return reports


def compute(
    proof: Proof, file: Path, family: str, inputs: Mapping[str, np.ndarray], backend: str, folder: Path
) -> Computed:
    """What a `.keras` file gives on a backend, on the CPU and in float32.

    Args:
        proof: says what is compared.
        file: the `.keras` file.
        family: the model's.
        inputs: float32 [B, H, W, C] by name.
        backend: Keras's name of it.
        folder: empty; it has to stay as long as the answer is read.

    Raises:
        ParityError: as `prove`.
    """
    source = proof.source
    factors = {key: source.probe_factor(key) for key in source.variables()}
    request = {
        "file": str(file.absolute()),
        "family": family,
        "factors": {key: factor for key, factor in factors.items() if factor != 1},
        "modes": ["inference"] if source.has_statistics else ["inference", "training"],
    }
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    np.savez(folder / "inputs.npz", **inputs)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "utils.keras_models.gate", str(folder)]
    settings = {"capture_output": True, "text": True, "timeout": SECONDS, "check": False}
    try:
        done = subprocess.run(command, env=os.environ | environment, **settings)
        reason = (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as error:
        raise ParityError(f"{file.name} was not computed by Keras on {backend} within {SECONDS} seconds.") from error
    if done.returncode:
        raise ParityError(f"{file.name} was not computed by Keras on {backend}: {reason}")
    return Computed(family, inputs, folder / "answer.npz")


class Computed(Conventions):
    """What one backend computed, as `utils.parity.proof` asks for it.

    Arrays are read when they are asked for: all gradients together are as large as the model.
    """

    def __init__(self, family: str, inputs: Mapping[str, np.ndarray], answer: Path) -> None:
        super().__init__(FAMILIES[family].layout.KERAS_NAMES)
        self._inputs, self._probed = inputs, False
        self._answer = np.load(answer, allow_pickle=False)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Its output for inputs that were in the request."""
        if self._probed:
            return self._answer["probed"]
        names = (name for name, batch in self._inputs.items() if np.array_equal(batch, inputs))
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
    def scaled_variables(self, factor: Any) -> Iterator[None]:
        """Inside, the output is that of the variables multiplied by the source's factors."""
        self._probed = True
        try:
            yield
        finally:
            self._probed = False

    def _keys_of(self, kind: str) -> list[str]:
        return [name.removeprefix(kind) for name in self._answer.files if name.startswith(kind)]

    def _all(self, kind: str) -> Arrays:
        return {key: self._answer[f"{kind}{key}"] for key in self._keys_of(kind)}


# --- the process of one backend


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


def hide_other_frameworks(backend: str) -> None:
    """From here on this process finds no framework but Keras's backend."""
    others = [package for name, packages in FRAMEWORKS.items() if name != backend for package in packages]
    sys.meta_path[:] = [Without(others, finder) for finder in sys.meta_path]


def _answer(candidate: Candidate, request: dict, inputs: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each array by what it is, as `Computed` asks for it."""
    for name, batch in inputs.items():
        yield f"outputs {name}", candidate(batch)
    with candidate.scaled_variables(lambda key: request["factors"].get(key, 1.0)):
        yield "probed", candidate(inputs[_GRADIENTS])
    yield from ((f"variable {key}", array) for key, array in candidate.variables().items())
    for mode in request["modes"]:
        found = candidate.gradients(inputs[_GRADIENTS], training=mode == "training")
        yield from ((f"{mode} gradient {key}", array) for key, array in found.items() if array is not None)
    output, statistics = candidate.training_pass(inputs[_TRAINING])
    yield "training mode", output
    yield from ((f"statistic {key}", array) for key, array in statistics.items())


def main(folder: Path) -> int:
    """Exit status: 0, or 1 where the file is wrong or the backend is missing; then stderr's last line says why."""
    hide_other_frameworks(os.environ["KERAS_BACKEND"])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    try:
        candidate = load_candidate(Path(request["file"]), request["family"])
    except ConversionError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    with np.load(folder / "inputs.npz", allow_pickle=False) as inputs:
        np.savez(folder / "answer.npz", **dict(_answer(candidate, request, inputs)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
