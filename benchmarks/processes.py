"""Fresh processes that do one thing on command, so that what is compared shares no state and no imports."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self
from unittest import mock

# For every process. The GPU is hidden because the comparison is of CPUs, and not all contenders would use it.
COMMON = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}

_STARTING = threading.Lock()  # the environment is one for all threads
_PREPARED: list[Callable] = []  # in the process: the function that `prepare` returned


class Worker:
    """A process that has run `prepare(*arguments)`, and then runs the function that this returned, call by call.

    environment: variables that the process starts with, above those of this one and COMMON: frameworks read theirs
        when they are imported, which `prepare` must do, not the module that defines it.

    Raises RuntimeError when anything in it fails, from that error with its own traceback, or when it dies.
    """

    def __init__(
        self, name: str, prepare: Callable[..., Callable], *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        # Set here while it starts: libraries read some of them before any Python code runs.
        with _STARTING, mock.patch.dict(os.environ, {**COMMON, **(environment or {})}):
            self._prepared = self._pool.submit(_prepare, prepare, arguments)

    def ready(self) -> Self:
        """Wait until the process is prepared; several may prepare at a time."""
        self._result(self._prepared)
        return self

    def __call__(self, *arguments: Any) -> Any:
        """The result of one call in the process; everyone else waits."""
        self.ready()
        return self._result(self._pool.submit(_call, arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def _result(self, future: Future) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            raise RuntimeError(f"the process for {self.name} died: killed, or out of memory") from None
        except Exception as error:
            raise RuntimeError(f"the process for {self.name} failed: {error!r}") from error


def _prepare(prepare: Callable[..., Callable], arguments: tuple) -> None:
    _PREPARED.append(prepare(*arguments))


def _call(arguments: tuple) -> Any:
    return _PREPARED[0](*arguments)
