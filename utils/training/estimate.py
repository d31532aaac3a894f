"""How long the rest will take, told before it is spent: from the images a second that were measured here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

WORTH_TELLING = 60  # seconds
_SETTLED = 2  # batches after which a rate counts; the first of them is traced
# A training step of everything takes 3 to 4 times as long as a forward pass: assets/tables/training_*.md.
PASSES_OF_A_STEP = 4
FASTER = (
    "A GPU is faster. In Colab: Runtime > Change runtime type; on Kaggle: Settings > Accelerator; on your own Linux "
    "machine with an NVIDIA GPU: make setup GPU=1"
)


class Clock:
    """Counts images, measures how many a second, and prints once how long all will take, if that is a minute or more.

    device: "CPU", "GPU" or "TPU".
    """

    def __init__(self, device: str) -> None:
        self.device, self.rate, self.total = device, 0.0, 0

    def start(self, total: int) -> None:
        """Begins to count up to `total` images."""
        self.total, self._done, self._batches = total, 0, 0
        self._told = False

    def done(self, count: int, bar: Any) -> None:
        """Counts a batch; `bar`: a tqdm bar, which moves, and above which the line appears."""
        self._done += count
        self._batches += 1
        bar.update(count)
        if self._batches <= _SETTLED:
            self._since, self._from = time.perf_counter(), self._done
            return
        self.rate = (self._done - self._from) / (time.perf_counter() - self._since)
        if not self._told:
            self.tell("Features", (self.total - self._done) / self.rate)
        self._told = True

    def measure(self, extract: Callable[[np.ndarray], Any], images: np.ndarray) -> None:
        """Measures the rate by a batch alone."""
        extract(images)  # traced
        since = time.perf_counter()
        extract(images)
        self.rate = len(images) / (time.perf_counter() - since)

    def tell(self, what: str, seconds: float) -> None:
        """Prints how long something will take, if that is a minute or more, and on a CPU what would be faster."""
        if seconds < WORTH_TELLING:
            return
        rate = f"{self.rate:.1f}" if self.rate < 100 else f"{self.rate:,.0f}"
        tqdm.write(f"{what}: about {in_words(seconds)} on this {self.device} ({rate} images a second, measured).")
        if self.device == "CPU":
            tqdm.write(FASTER)


def in_words(seconds: float) -> str:
    """Such as "40 seconds", "9 minutes" or "2.5 hours"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"
