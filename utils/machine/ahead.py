"""Work on what comes next, in threads, while the caller is busy with what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from utils.machine.cores import usable_cores

_AHEAD = 3  # batches in preparation
Item, Made = TypeVar("Item"), TypeVar("Made")


def made_ahead(
    items: Iterator[Item], make: Callable[[Item], Made], batch_size: int
) -> Generator[list[tuple[Item, Made]]]:
    """The items in their order, `batch_size` at a time, each with what `make` makes of it.

    What `make` raises is raised when the batch is asked for. Closed early, it begins nothing more.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:

        def begin() -> list[tuple[Item, Future[Made]]]:
            return [(item, pool.submit(make, item)) for item in islice(items, batch_size)]

        waiting = deque(begin() for _ in range(_AHEAD))
        try:
            while begun := waiting.popleft():
                waiting.append(begin())
                yield [(item, future.result()) for item, future in begun]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
