"""Fresh processes that do one thing on command, so that what is compared shares no state and no imports."""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

# For every process. The GPU is hidden because the comparison is of CPUs, and not all contenders would use it.
COMMON = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}

_STARTING = threading.Lock()  # the environment is one for all threads


class Worker:
    """A process that has run `prepare(*arguments)`, and then runs the function that this returned, call by call.

    environment: variables that the process starts with, above those of this one and COMMON: frameworks read theirs
        when they are imported, which `prepare` must do, not the module that defines it.

    Raises RuntimeError, with the process's own traceback, when anything in it fails, or it dies.
    """

    def __init__(
        self, name: str, prepare: Callable[..., Callable], *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare, arguments), name=name, daemon=True)
        with _STARTING, _environment({**COMMON, **(environment or {})}):
            self._process.start()
        theirs.close()  # or its end would be noticed by nobody
        self._prepared = False

    def ready(self) -> Self:
        """Wait until the process is prepared; several may prepare at a time."""
        if not self._prepared:
            self._receive()
            self._prepared = True
        return self

    def __call__(self, *arguments: Any) -> Any:
        """The result of one call in the process; everyone else waits."""
        self.ready()
        self._connection.send(arguments)
        return self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type | None, _value: BaseException | None, _traceback: TracebackType | None) -> None:
        self._connection.close()  # its loop ends at the end of file
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> Any:
        try:
            failed, result = self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(f"the process for {self.name} ended with exit code {self._process.exitcode}") from None
        if failed:
            raise RuntimeError(f"the process for {self.name} failed:\n{result}")
        return result


def _serve(connection: Connection, prepare: Callable[..., Callable], arguments: tuple) -> None:
    try:
        call = prepare(*arguments)
        connection.send((False, None))
        while (message := _next(connection)) is not None:
            connection.send((False, call(*message)))
    except BrokenPipeError:  # nobody wants the result any more
        return
    except BaseException:
        connection.send((True, traceback.format_exc()))


def _next(connection: Connection) -> tuple | None:
    try:
        return connection.recv()
    except EOFError:
        return None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set in this process while another one starts: libraries read some of them before any Python code runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
