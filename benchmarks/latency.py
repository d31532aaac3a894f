"""Latency of the SavedModel against plain onnx-tf's, PyTorch and ONNX Runtime, side by side.

oneDNN is chosen when TensorFlow is imported, so every contender is a process of its own, alive for the whole run. They
compute one batch each in turn, round by round: whatever slows the machine meets all of them. While one computes the
others sleep; a pause before each turn lets the thread pools of the one before stop spinning, and the processor time
that a process took while it had nothing to do is kept with each sample, to show that it does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import Artefacts, prepare
from benchmarks.conversion import SIDES, converted
from benchmarks.processes import Worker
from utils.parity.comparison import OUTPUT_TOLERANCE, Report, compare_arrays

BATCHES = (1, 8)
WARM_UPS = 2  # TensorFlow optimises the graph at the first call, PyTorch and ONNX Runtime allocate
PAUSE_SECONDS = 0.1  # ONNX Runtime's threads were seen to spin for 0.05 s before they sleep, others' far less

# (contender, what TF_ENABLE_ONEDNN_OPTS is): the others have no such switch
RUNS = (
    ("pytorch", None),
    ("onnxruntime", None),
    ("ours", "1"),
    ("frozen", "1"),
    ("plain", "1"),
    ("ours", "0"),
    ("frozen", "0"),
    ("plain", "0"),
)


def samples(variants: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Per variant, batch, contender and round: `seconds`, and `idle_cpu_seconds` since its last turn.

    Raises ParityError when a contender's logits are not PyTorch's: nothing is timed that computes another thing.
    """
    for variant in variants:
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            folders = {side: Path(scratch, side) for side in SIDES}
            for side, folder in folders.items():
                folder.mkdir()
                converted(side, variant, folder)
            artefacts = Artefacts(variant, **folders)
            workers = {
                (contender, onednn): stack.enter_context(
                    Worker(
                        f"{contender} on {variant}, TF_ENABLE_ONEDNN_OPTS={onednn}",
                        prepare,
                        contender,
                        artefacts,
                        BATCHES,
                        environment={} if onednn is None else {"TF_ENABLE_ONEDNN_OPTS": onednn},
                    )
                )
                for contender, onednn in RUNS
            }
            require_equal_logits(workers)
            for sample in take_turns(workers, rounds):
                yield {"variant": variant, **sample}


def require_equal_logits(workers: Mapping[tuple[str, str | None], Worker]) -> None:
    """Raises ParityError when a contender's logits differ from PyTorch's by more than rounding, at any batch."""
    rows = []
    for batch in BATCHES:
        logits = {key: worker("logits", batch) for key, worker in workers.items()}
        for (contender, onednn), found in logits.items():
            name = f"{contender}, oneDNN {onednn}"
            rows += compare_arrays(
                {name: logits["pytorch", None]},
                {name: found},
                output="logits",
                tolerance=OUTPUT_TOLERANCE,
                input_name="noise",
                batch=batch,
            )
    Report(rows).require()


def take_turns(workers: Mapping[tuple[str, str | None], Worker], rounds: int) -> Iterator[dict[str, Any]]:
    """One call of each worker per batch and round, each round begun by another worker; warm-ups are left out."""
    order = list(workers)
    for batch in BATCHES:
        for number in range(-WARM_UPS, rounds):
            first = number % len(order)
            for contender, onednn in order[first:] + order[:first]:
                time.sleep(PAUSE_SECONDS)
                seconds, idle = workers[contender, onednn]("time", batch)
                if number >= 0:
                    yield {
                        "batch": batch,
                        "contender": contender,
                        "onednn": onednn,
                        "round": number,
                        "seconds": seconds,
                        "idle_cpu_seconds": idle,
                    }
