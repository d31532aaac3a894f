"""What the source framework computed, kept so that it is computed once: in a conversion, and in a batch of them.

A classifier's run gives the features too, so the two heads of a variant, and a Mixer's two kinds of operations, need
one run of the source between them. A batch gives its conversions a folder to share, for as long as the batch runs; a
conversion by itself shares with nobody.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import written_whole

FOLDER_VARIABLE = "MIXERS_REFERENCES"  # environment: the folder that a batch's conversions share

Outputs = Mapping[str, np.ndarray]
Model = Callable[[np.ndarray], np.ndarray]


class References:
    """Results of the source model on arrays, remembered by the arrays' bytes.

    source: names the model and its weights, such as the checkpoint's SHA-256 and the variant. Other processes find the
    results in the folder that `FOLDER_VARIABLE` names, if it does.
    """

    def __init__(self, *source: str) -> None:
        self._source = source
        shared = os.environ.get(FOLDER_VARIABLE)
        self._folder = Path(shared) if shared else None
        self._known: dict[str, dict[str, np.ndarray]] = {}
        self._threads: dict[str, queue.SimpleQueue[Callable[[], None]]] = {}

    def later(self, run: Callable[[], Any], thread: str = "") -> Callable[[], Any]:
        """Has `run` computed in the thread of that name, after what it was given before; what is returned waits for it.

        While TensorFlow is imported, traces, saves and packs, most of which takes one core, the source can use another.
        """
        if thread not in self._threads:
            self._threads[thread] = queue.SimpleQueue()
            threading.Thread(target=_work_through, args=(self._threads[thread],), daemon=True).start()
        future: Future = Future()

        def work() -> None:
            try:
                future.set_result(run())
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)

        self._threads[thread].put(work)
        return future.result

    def ahead(self, model: Model, batches: Iterable[np.ndarray], thread: str = "") -> Model:
        """The same function; that thread begins with `batches`, which will be asked for."""
        begun = {self._key("ahead", batch): self.later(lambda batch=batch: model(batch), thread) for batch in batches}

        def call(inputs: np.ndarray) -> np.ndarray:
            started = begun.get(self._key("ahead", inputs))
            return started() if started else model(inputs)

        return call

    def output(self, name: str, run: Callable[[np.ndarray], Outputs], dtype: str = "float32") -> Model:
        """The source as a function of NHWC arrays that gives output `name`; `run` gives it, and others it has anyway.

        `run` is called where nobody has called one of the same dtype with the same array that gave this output.
        """
        return lambda inputs: self.arrays(f"outputs, {dtype}", inputs, run, name)[name]

    def arrays(
        self, what: str, inputs: np.ndarray, run: Callable[[np.ndarray], Outputs], wanted: str
    ) -> dict[str, np.ndarray]:
        """All that `run` gives for `inputs`, computed or remembered.

        Args:
            what: tells these results from others of the same inputs.
            inputs: float32 [B, H, W, C].
            run: computes them.
            wanted: an array that must be among what is remembered.
        """
        key = self._key(what, inputs)
        found = self._known.get(key, {})
        if not found and (file := self._read(key)) is not None:
            with file:
                found = dict(file)
        if wanted not in found:
            found = {**found, **run(inputs.copy())}  # a new one: another thread may be reading the old one
            self._write(key, found)
        self._known[key] = found
        return {name: array.copy() for name, array in found.items()}

    def large(self, what: str, inputs: np.ndarray, run: Callable[[np.ndarray], Outputs], shared: bool) -> Outputs:
        """The same of what is as large as the model, such as gradients: it waits on disk, and is read array by array.

        Where there is no room for it, it stays in memory.

        Args:
            what: as of `arrays`.
            inputs: float32 [B, H, W, C].
            run: computes it.
            shared: others will ask for it, so the folder keeps it, if there is one. Else it is a file without a name in
                the folder for temporary files.
        """
        key = self._key(what, inputs)
        shared = shared and self._folder is not None
        if shared and (found := self._read(key)) is not None:
            return found
        found = run(inputs.copy())
        if shared:
            self._write(key, found)
            return self._read(key) or found
        with suppress(OSError):
            _require_space(tempfile.gettempdir(), found)
            # Open as long as what reads it; without a name, it is gone with the process.
            file = tempfile.TemporaryFile()  # noqa: SIM115
            np.savez(file, **found)
            file.seek(0)
            return np.load(file, allow_pickle=False)
        return found

    def _key(self, what: str, inputs: np.ndarray) -> str:
        digest = hashlib.sha256(repr((self._source, what, inputs.shape, inputs.dtype.str)).encode())
        digest.update(np.ascontiguousarray(inputs))
        return digest.hexdigest()

    def _read(self, key: str) -> np.lib.npyio.NpzFile | None:
        if not self._folder or not (path := self._folder / f"{key}.npz").exists():
            return None
        return np.load(path, allow_pickle=False)

    def _write(self, key: str, arrays: Outputs) -> None:
        if not self._folder:
            return
        # Where it cannot be, for want of space, say, the others compute it again.
        with suppress(OSError):
            _require_space(self._folder, arrays)
            with written_whole(self._folder / f"{key}.npz") as file:
                np.savez(file, **arrays)


def _require_space(folder: str | os.PathLike, arrays: Outputs) -> None:
    """OSError where the arrays would leave too little for what is saved meanwhile: float64 takes twice its own room."""
    if shutil.disk_usage(folder).free < 3 * sum(array.nbytes for array in arrays.values()):
        raise OSError(errno.ENOSPC, "too little space", str(folder))


def _work_through(work: queue.SimpleQueue) -> None:
    while True:
        work.get()()
