"""Latency of the exports against plain onnx-tf's, the sources and ONNX Runtime, side by side.

oneDNN is chosen when TensorFlow is imported, so every contender is a process of its own, alive for the whole run. They
compute one batch each in turn, round by round: whatever slows the machine meets all of them. While one computes the
others sleep; a pause before each turn lets the thread pools of the one before stop spinning.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contenders import BATCHES, Folders, prepare
from benchmarks.conversion import SIDES, converted
from benchmarks.exports import KINDS, prepare_export, prepare_onnx
from benchmarks.processes import Worker
from utils.families.variants import get_variant
from utils.parity.comparison import OUTPUT_TOLERANCE, Report, compare_arrays

WARM_UPS = 2  # TensorFlow optimises the graph at the first call, PyTorch and ONNX Runtime allocate
PAUSE_SECONDS = 0.1  # ONNX Runtime's threads were seen to spin for 0.05 s before they sleep, others' far less
COUNTED = {"convmixer": SIDES}  # by family, whose operations over activations are counted
ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}

Run = tuple[str, str | None]  # (contender, what TF_ENABLE_ONEDNN_OPTS is): the others have no such switch
# The source comes first. XLA does not use TensorFlow's oneDNN, so one setting stands for both.
RUNS: dict[str, tuple[Run, ...]] = {
    "convmixer": (
        *(("pytorch", None), ("onnxruntime", None)),
        *((contender, onednn) for onednn in ("1", "0") for contender in ("ours", "frozen", "plain")),
    ),
    "mixer": (("jax", None), ("xla", None), ("plain", "1"), ("plain", "0")),
}


def saved(name: str, scratch: Path) -> dict[str, Path]:
    """What each side's conversion of a ConvMixer left, and its ONNX file; or each kind of export of a Mixer."""
    if get_variant(name).family == "mixer":
        return exports(name, scratch)
    folders = {side: scratch / side for side in SIDES}
    for side, folder in folders.items():
        folder.mkdir()
        converted(side, name, folder)
    with Worker(f"ONNX file of {name}", prepare_onnx, name) as worker:
        worker(scratch / "model.onnx")
    return folders | {"onnx": scratch / "model.onnx"}


def exports(name: str, scratch: Path, head: str = "classification") -> dict[str, Path]:
    """The SavedModel of each kind of export."""
    folders = {kind: scratch / kind for kind in KINDS[get_variant(name).family]}
    for kind, folder in folders.items():
        with Worker(f"{kind} export of {name}", prepare_export, kind, name, head) as worker:
            worker(folder)
    return folders


def samples(
    variants: Sequence[str],
    rounds: int,
    contenders: Mapping[str, tuple[Run, ...]] = RUNS,
    save: Callable[[str, Path], Folders] = saved,
) -> Iterator[dict[str, Any]]:
    """Per variant, batch, contender and round: `seconds`, and of those in `COUNTED` how many `passes` it made.

    contenders: by family, the source first. save: leaves what they load in a folder.
    Raises ParityError when a contender's logits are not the source's: nothing is timed that computes another thing.
    """
    for name in variants:
        family = get_variant(name).family
        runs = contenders[family]
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            folders = save(name, Path(scratch))
            workers = started(stack, name, {run: (prepare, run[0], name, folders) for run in runs})
            counted = {run: {"passes": workers[run]("passes", 1)} for run in runs if run[0] in COUNTED.get(family, ())}
            require_equal_logits(workers, runs[0])
            for batch in BATCHES:
                for number, (contender, onednn) in turns(runs, range(-WARM_UPS, rounds)):
                    seconds = workers[contender, onednn]("time", batch)
                    if number >= 0:
                        facts = {"variant": name, "batch": batch, "contender": contender, "onednn": onednn}
                        yield {**facts, "round": number, "seconds": seconds} | counted.get((contender, onednn), {})


def started(stack: ExitStack, name: str, prepared: Mapping[Run, tuple]) -> dict[Run, Worker]:
    """A process for each run, by its setting of oneDNN; ready one after the other, as each may need much at first.

    One that is called "keras jax", say, has that backend of Keras.
    """
    workers = {}
    for (contender, onednn), work in prepared.items():
        environment = {} if onednn is None else {"TF_ENABLE_ONEDNN_OPTS": onednn}
        if contender.startswith("keras "):
            environment["KERAS_BACKEND"] = contender.split()[1]
        label = f"{contender} on {name}, TF_ENABLE_ONEDNN_OPTS={onednn}"
        workers[contender, onednn] = stack.enter_context(Worker(label, *work, environment=environment)).ready()
    return workers


def turns(runs: Sequence[Any], rounds: range) -> Iterator[tuple[int, Any]]:
    """Each run once a round, each round begun by another one, after a pause."""
    for number in rounds:
        first = number % len(runs)
        for run in (*runs[first:], *runs[:first]):
            time.sleep(PAUSE_SECONDS)
            yield number, run


def require_equal_logits(workers: Mapping[Run, Worker], source: Run) -> None:
    """Raises ParityError when a contender's logits differ from the source's by more than rounding, at any batch."""
    rows = []
    for batch in BATCHES:
        logits = {f"{run[0]}, oneDNN {run[1]}": worker("logits", batch) for run, worker in workers.items()}
        expected = dict.fromkeys(logits, logits[f"{source[0]}, oneDNN {source[1]}"])
        rows += compare_arrays(
            expected, logits, output="logits", tolerance=OUTPUT_TOLERANCE, input_name="noise", batch=batch
        )
    Report(rows).require()
