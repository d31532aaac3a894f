"""A run's parts on a Ray cluster: each by whichever worker is free, with the model loaded once in each worker.

Model, photographs and output must be at the same paths on every node. A part is written whole or not at all, so that
one whose node dies is simply done again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from utils.errors import ConversionError, ParameterError
from utils.predict.run import Plan, Run, open_run

REQUIREMENTS = "requirements-ray.txt"
_SECONDS = 10  # that a cluster has to answer


def on_cluster(address: str, plan: Plan, run: Run) -> Iterator[int]:
    """Does the parts that are left of the plan's run; yields the number of rows of each as it is done.

    Raises ParameterError if Ray is missing or no cluster answers, and as `open_run` for what a node finds otherwise.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is raised
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ParameterError(f"--ray: Ray is not installed. Install it: pip install -r {REQUIREMENTS}") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _require_answer(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise ParameterError(f"--ray {address}: no cluster answers there ({error}). Is `ray start` running?") from error
    try:
        yield from _done(ray, plan, run)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()


def _done(ray: Any, plan: Plan, run: Run) -> Iterator[int]:
    parts = run.left
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    # Half of what it gets: the worker of a node that dies must find room on another.
    share = {"num_gpus": 0.5} if gpus else {"num_cpus": min(node.get("CPU", 1) for node in nodes) / 2}
    progress = ray.data.DataContext.get_current()
    progress.enable_progress_bars = False  # there is one already
    todo = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    done = todo.map(
        _Worker,
        fn_constructor_args=(plan, run.parts.binding, os.getcwd()),
        concurrency=min(len(parts), gpus or len(nodes)),
        scheduling_strategy="SPREAD",
        **share,
    )
    try:
        for row in done.iter_rows():
            yield row["rows"]
    except Exception as error:  # Ray's own kinds, around what a worker raised
        cause: BaseException | None = error
        while cause and not isinstance(cause, ConversionError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise ParameterError(f"--ray: {cause or error}") from error


class _Worker:
    """A process that has the model loaded."""

    def __init__(self, plan: Plan, binding: Mapping[str, Any], folder: str) -> None:
        os.chdir(folder)
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # a GPU may have to hold two of them
        self._run = open_run(plan)
        if different := [key for key, value in binding.items() if self._run.parts.binding[key] != value]:
            raise ParameterError(
                f"a node finds another {' and '.join(different)} than this one. Both must be the same, "
                "at the same paths, on every node."
            )

    def __call__(self, row: Mapping[str, int]) -> dict[str, int]:
        part = int(row["part"])
        if not self._run.parts.is_done(part):  # by a node that died before it said so
            for _ in self._run.work(part):
                pass
        return {"rows": self._run.rows_in(part)}
