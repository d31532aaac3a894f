"""How a batch shows what it is doing: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.batch.plan import Outcome


class Lines:
    """A line when a conversion starts, and one when it ends; for logs."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.total = sum(outcome.state == "not started" for outcome in outcomes)
        self.ends = 0

    def started(self, outcome: Outcome) -> None:
        """A conversion begins."""
        self.say(f"{outcome.conversion.name} ...")

    def cells(self, outcome: Outcome, done: int, total: int) -> None:
        """`done` of `total` cells of its notebook are through."""

    def ended(self, outcome: Outcome) -> None:
        """It is over: `outcome` says how."""
        self.ends += 1
        reason = f": {outcome.reason.splitlines()[0]}" if outcome.reason else ""
        self.say(
            f"[{self.ends}/{self.total}] {outcome.conversion.name} {outcome.state} after {outcome.seconds:.0f} s, "
            f"{outcome.peak_mb:,.0f} MB{reason}"
        )

    def say(self, text: str) -> None:
        """Prints a line."""
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Nothing more will come."""


class Bars(Lines):
    """A bar of all models, and below it one of cells for each that is running."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        from tqdm import tqdm

        super().__init__(outcomes)
        self._tqdm, self._bars = tqdm, {}
        self._all = tqdm(total=len(outcomes), desc="all", unit="model", position=0)
        self._all.update(len(outcomes) - self.total)

    def started(self, outcome: Outcome) -> None:
        """Opens its bar, in the first place that is free."""
        taken = {bar.pos if bar.pos >= 0 else -bar.pos for bar in self._bars.values()}
        free = next(place for place in range(1, len(taken) + 2) if place not in taken)
        self._bars[outcome.conversion.name] = self._tqdm(
            desc=outcome.conversion.name, unit="cell", position=free, leave=False
        )

    def cells(self, outcome: Outcome, done: int, total: int) -> None:
        """Moves its bar."""
        bar = self._bars[outcome.conversion.name]
        bar.total, bar.n = total or None, done
        bar.refresh()

    def ended(self, outcome: Outcome) -> None:
        """Closes its bar, and leaves a line."""
        self._bars.pop(outcome.conversion.name).close()
        super().ended(outcome)
        self._all.update()

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        self._tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar of all models as it is."""
        self._all.close()


@contextmanager
def display(outcomes: Sequence[Outcome]) -> Iterator[Lines]:
    """Bars if stderr is a terminal, else lines."""
    shown = Bars(outcomes) if sys.stderr.isatty() else Lines(outcomes)
    try:
        yield shown
    finally:
        shown.close()
