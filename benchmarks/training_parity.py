"""Does an export train as its source does? `python -m benchmarks.training_parity`: ten SGD steps on either side.

Both start from the same checkpoint and see the same batches: the reloaded SavedModel under TensorFlow or the native
model under Keras 3, the source model under PyTorch or JAX, each with its own framework's optimizer. Leaves
`training_parity` in assets/tables.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from benchmarks.exports import KINDS, SEED, WEIGHTS, exported, flax_model, torch_model
from benchmarks.steps import JaxStep, Step, tensorflow_step, torch_step
from utils.families.variants import VARIANTS, Variant, get_variant
from utils.machine.devices import keep_triton_out
from utils.tables import markdown

DEFAULT_VARIANTS = ["convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny", "convmixer_1024_20", "mixer_b16_i1k"]
STEPS, MOMENTUM = 10, 0.9
BATCH, BATCH_OF_FULL_SIZE = 8, 2
# A full-size model learns two images by heart in ten larger steps, and of a loss near 0 no relative error can be told.
LEARNING_RATE, LEARNING_RATE_OF_FULL_SIZE = 3e-3, 3e-5
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-4, 1e-3
PACKAGES = ("torch", "jax", "flax", "optax", "tensorflow", "tf_keras", "onnx-tf", "numpy")

# In which a family's exports compute differently.
MODES = {"convmixer": (("moving statistics", False), ("batch's statistics", True)), "mixer": (("none", True),)}


@dataclass(frozen=True)
class Run:
    """What ten steps left: the loss before each step, and every variable by its name in the checkpoint."""

    losses: list[float]
    weights: Mapping[str, np.ndarray]


def task(variant: Variant, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch of every step, the same, so that the loss falls: float32 [batch, size, size, 3] and int64 [batch]."""
    rng = np.random.default_rng(SEED)
    images = rng.standard_normal((batch, variant.image_size, variant.image_size, 3), dtype=np.float32)
    return images, rng.integers(0, variant.architecture.classes, batch)


def learning_rate(variant: Variant) -> float:
    """Of every step."""
    return LEARNING_RATE if variant.testing else LEARNING_RATE_OF_FULL_SIZE


def _losses(step: Step, images: np.ndarray, labels: np.ndarray) -> list[float]:
    return [step(images, labels) for _ in range(STEPS)]


def train_export(folder: Path, images: np.ndarray, labels: np.ndarray, training: bool, rate: float) -> Run:
    """Ten steps of tf_keras's SGD on the SavedModel in `folder`, called with `training`."""
    from utils.export.saved_model import load_model, name_of

    model = load_model(folder)
    step = tensorflow_step(lambda batch: model(batch, training=training), model.trainable_variables, rate, MOMENTUM)
    losses = _losses(step, images, labels)
    return Run(losses, {name_of(variable): variable.numpy() for variable in model.variables})


def train_keras(variant: Variant, images: np.ndarray, labels: np.ndarray, start: Mapping[str, np.ndarray]) -> Run:
    """Ten calls of `train_on_batch`, with Keras 3's own SGD, of the `.keras` file of the weights `start`."""
    import keras

    from utils.keras_models import conversion
    from utils.keras_models.candidate import load_candidate

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.keras")
        conversion.write(path, variant, start, "classification", variant.image_size, {})
        candidate = load_candidate(path, variant.family)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(learning_rate(variant), momentum=MOMENTUM)
    candidate.model.compile(optimizer, loss, jit_compile=False)
    return Run(
        _losses(lambda *batch: float(candidate.model.train_on_batch(*batch)), images, labels), candidate.variables()
    )


def train_source(
    variant: Variant, images: np.ndarray, labels: np.ndarray, training: bool
) -> tuple[dict[str, np.ndarray], Run]:
    """The weights at the start, and ten steps of torch.optim.SGD, in train or eval mode, or of optax.sgd."""
    rate = learning_rate(variant)
    if variant.family == "convmixer":
        import torch

        model, _ = torch_model(variant)
        state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
        start = {name: tensor.numpy().copy() for name, tensor in state.items()}
        optimizer = torch.optim.SGD(model.train(training).parameters(), rate, momentum=MOMENTUM)
        losses = _losses(torch_step(model, optimizer), images, labels)
        return start, Run(losses, {name: tensor.numpy() for name, tensor in state.items()})
    import optax

    predict, start = flax_model(variant)
    step = JaxStep(lambda trained, _, batch: predict(trained, batch), start, optax.sgd(rate, momentum=MOMENTUM))
    losses = _losses(step, images, labels)
    return start, Run(losses, {name: np.asarray(array) for name, array in step.trained.items()})


def compare(start: Mapping[str, np.ndarray], source: Run, export: Run) -> dict[str, Any]:
    """The figures of a row: worst relative error of a loss, of a variable (L2), and of all that training changed.

    All three in the source's axis order; `start` are the weights that both began with.
    """
    if set(source.weights) != set(export.weights):
        raise ValueError(f"not the same variables: {sorted(set(source.weights) ^ set(export.weights))}")
    losses = np.abs(np.subtract(export.losses, source.losses)) / np.abs(source.losses)
    errors = {
        name: float(np.linalg.norm(export.weights[name] - array) / np.linalg.norm(array))
        for name, array in source.weights.items()
    }
    moved = {name: source.weights[name].astype(np.float64) - start[name] for name in errors}
    apart = {name: export.weights[name].astype(np.float64) - source.weights[name] for name in errors}
    total = np.sqrt(sum((d**2).sum() for d in apart.values()) / sum((d**2).sum() for d in moved.values()))
    worst = max(errors, key=errors.__getitem__)
    return {
        "first_loss": source.losses[0],
        "last_loss": source.losses[-1],
        "loss": float(losses.max()),
        "weights": errors[worst],
        "worst_variable": worst,
        "change": float(total),
        "passed": bool(losses.max() <= LOSS_TOLERANCE and errors[worst] <= WEIGHTS_TOLERANCE),
    }


def samples(names: Sequence[str], batch: int | None = None) -> Iterator[dict[str, Any]]:
    """A row of figures per variant, kind of export and mode of BatchNorm."""
    keep_triton_out()
    for name in names:
        variant = get_variant(name)
        images, labels = task(variant, batch or (BATCH if variant.testing else BATCH_OF_FULL_SIZE))
        for mode, training in MODES[variant.family]:
            start, source = train_source(variant, images, labels, training)
            for kind in KINDS[variant.family]:
                with tempfile.TemporaryDirectory() as scratch:
                    folder, axes = save(variant, kind, Path(scratch))
                    export = train_export(folder, images, labels, training, learning_rate(variant))
                back = {n: a.transpose(np.argsort(axes[n])) if n in axes else a for n, a in export.weights.items()}
                row = compare(start, source, Run(export.losses, back))
                yield {"variant": name, "export": kind, "batch_norm": mode, "batch": len(images), **row}
            if training:
                row = compare_keras(variant, images, labels, start, source)
                yield {"variant": name, "export": ".keras", "batch_norm": mode, "batch": len(images), **row}


def compare_keras(
    variant: Variant, images: np.ndarray, labels: np.ndarray, start: Mapping[str, np.ndarray], source: Run
) -> dict[str, Any]:
    """The row of the `.keras` file, in Keras's axis order and with its variances: see `with_keras_variances`."""
    from utils.keras_models.conventions import KEYS, with_keras_variances

    size, keys = variant.image_size, KEYS[variant.family]
    count = len(images) * variant.architecture.positions(size, size)
    promised = with_keras_variances(source.weights, start, count, STEPS)
    before, after = ({k: keys.arranged(k, array) for k, array in arrays.items()} for arrays in (start, promised))
    return compare(before, Run(source.losses, after), train_keras(variant, images, labels, start))


def save(variant: Variant, kind: str, scratch: Path) -> tuple[Path, Mapping[str, tuple[int, ...]]]:
    """The classifier's SavedModel, and the axes of the variables that it stores in another order."""
    from utils.export.saved_model import save_model

    made = exported(variant, kind)
    return save_model(made, scratch / "model"), made.axes


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per variant, kind of export and mode of BatchNorm."""
    headings = ["variant", "source", "export", "BatchNorm normalises by", "batch", "loss, steps 1 to 10"]
    headings += ["loss: worst relative error", "weights: worst variable, relative L2", "change: relative L2", "passes"]
    lines = []
    for row in rows:
        source = "JAX" if get_variant(row["variant"]).family == "mixer" else "PyTorch"
        figures = [f"{row[key]:.1e}" for key in ("loss", "weights", "change")]
        losses = f"{row['first_loss']:.4f} to {row['last_loss']:.4f}"
        facts = [row["variant"], source, row["export"], row["batch_norm"], str(row["batch"]), losses]
        lines.append([*facts, *figures, "yes" if row["passed"] else "no"])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train both sides, write the table, print it. Exit status 1 when a row does not pass."""
    parser = command.parser("training_parity", __doc__)
    known = sorted(VARIANTS)
    parser.add_argument("--variants", nargs="+", choices=known, default=DEFAULT_VARIANTS, help="all tiny, two in full")
    options = parser.parse_args(arguments)
    notes = command.notes("training_parity", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"{STEPS} steps of SGD, learning rate {LEARNING_RATE:g} ({LEARNING_RATE_OF_FULL_SIZE:g} at full size), "
            f"momentum {MOMENTUM:g}, cross-entropy, every weight trained; the same batch of noise with random labels "
            f"each time; the SavedModel was reloaded from disk. Passes: losses within {LOSS_TOLERANCE:g}, weights and "
            f"moving statistics within {WEIGHTS_TOLERANCE:g}. The change is the error of what training did to all "
            "variables together, relative to that alone"
        ),
    }
    rows = command.shown(samples(options.variants))
    command.leave(options, "training_parity", "Ten training steps, export against source", notes, table, rows)
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
