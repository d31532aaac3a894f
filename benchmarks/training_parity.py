"""Does an export train as its source does? `python -m benchmarks.training_parity`: ten SGD steps on either side.

Both start from the same checkpoint and see the same batches: the reloaded SavedModel under TensorFlow, the source
model under PyTorch or JAX, each with its own framework's optimizer. Leaves `training_parity` in assets/tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, tables
from benchmarks.conversion import SEED, WEIGHTS
from utils.checkpoints import loading
from utils.machine.devices import keep_triton_out
from utils.models.variants import VARIANTS, Variant, get_variant
from utils.tables import markdown

TABLES = Path(__file__).resolve().parent.parent / "assets" / "tables"
DEFAULT_VARIANTS = ["convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny", "convmixer_1024_20", "mixer_b16_i1k"]
STEPS, MOMENTUM = 10, 0.9
BATCH, BATCH_OF_FULL_SIZE = 8, 2
# A full-size model learns two images by heart in ten larger steps, and of a loss near 0 no relative error can be told.
LEARNING_RATE, LEARNING_RATE_OF_FULL_SIZE = 3e-3, 3e-5
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-4, 1e-3
PACKAGES = ("torch", "jax", "flax", "optax", "tensorflow", "tf_keras", "onnx-tf", "numpy")

# What is trained: the family's kinds of export, each with the modes in which it computes differently.
KINDS = {"convmixer": ("onnx-tf",), "mixer": ("xla", "plain")}
MODES = {"convmixer": (("moving statistics", False), ("batch's statistics", True)), "mixer": (("none", True),)}


@dataclass(frozen=True)
class Run:
    """What ten steps left: the loss before each step, and every variable by its name in the checkpoint."""

    losses: list[float]
    weights: Mapping[str, np.ndarray]


def task(variant: Variant, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch of every step, the same, so that the loss falls: float32 [batch, size, size, 3] and int64 [batch]."""
    rng = np.random.default_rng(SEED)
    size = variant.image_size
    images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, variant.architecture.classes, batch)


def learning_rate(variant: Variant) -> float:
    """Of every step."""
    return LEARNING_RATE if variant.testing else LEARNING_RATE_OF_FULL_SIZE


def train_export(folder: Path, images: np.ndarray, labels: np.ndarray, training: bool, rate: float) -> Run:
    """Ten steps of tf_keras's SGD on the SavedModel in `folder`, called with `training`."""
    import tensorflow as tf
    import tf_keras

    from utils.export.saved_model import load_model, name_of

    model = load_model(folder)
    optimizer = tf_keras.optimizers.SGD(rate, momentum=MOMENTUM)

    @tf.function(autograph=False)
    def step(batch: tf.Tensor, truth: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(batch, training=training)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(tf.constant(images), tf.constant(labels))) for _ in range(STEPS)]
    return Run(losses, {name_of(variable): variable.numpy() for variable in model.variables})


def train_torch(model: Any, images: np.ndarray, labels: np.ndarray, training: bool, rate: float) -> Run:
    """Ten steps of torch.optim.SGD on the source model, in train or in eval mode."""
    import torch

    model.train(training)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=MOMENTUM)
    inputs, truth, losses = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(model(inputs), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return Run(losses, {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")})


def train_jax(
    predict: Callable, parameters: Mapping[str, np.ndarray], images: np.ndarray, labels: np.ndarray, rate: float
) -> Run:
    """Ten steps of optax.sgd on the source model."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.sgd(rate, momentum=MOMENTUM)

    @jax.jit
    def step(weights: dict, state: Any, batch: jax.Array, truth: jax.Array) -> tuple[dict, Any, jax.Array]:
        def loss_of(weights: dict) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(predict(weights, batch), truth).mean()

        loss, gradients = jax.value_and_grad(loss_of)(weights)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(weights, updates), state, loss

    weights = {name: jnp.asarray(array) for name, array in parameters.items()}
    state, losses = optimizer.init(weights), []
    for _ in range(STEPS):
        weights, state, loss = step(weights, state, images, labels)
        losses.append(float(loss))
    return Run(losses, {name: np.asarray(array) for name, array in weights.items()})


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
            start, source = _train_source(variant, images, labels, training)
            for kind in KINDS[variant.family]:
                with tempfile.TemporaryDirectory() as scratch:
                    folder, axes = _save(variant, kind, Path(scratch))
                    export = train_export(folder, images, labels, training, learning_rate(variant))
                back = {n: a.transpose(np.argsort(axes[n])) if n in axes else a for n, a in export.weights.items()}
                row = compare(start, source, Run(export.losses, back))
                yield {"variant": name, "export": kind, "batch_norm": mode, "batch": len(images), **row}


def _train_source(
    variant: Variant, images: np.ndarray, labels: np.ndarray, training: bool
) -> tuple[dict[str, np.ndarray], Run]:
    start = _weights(variant)
    if variant.family == "convmixer":
        from utils.models.convmixer import build_convmixer

        copies = {name: array.copy() for name, array in start.items()}
        model = build_convmixer(variant.architecture, copies)
        return start, train_torch(model, images, labels, training, learning_rate(variant))
    from utils.models import mlp_mixer

    model = mlp_mixer.build(variant.architecture)
    start = mlp_mixer.select_parameters(model, start)
    return start, train_jax(mlp_mixer.predict_function(model), start, images, labels, learning_rate(variant))


def _weights(variant: Variant) -> dict[str, np.ndarray]:
    path = loading.resolve(variant, "synthetic", SEED, progress=False).path
    read = loading.read_convmixer if variant.family == "convmixer" else loading.read_mixer
    return read(path, variant)


def _save(variant: Variant, kind: str, scratch: Path) -> tuple[Path, Mapping[str, tuple[int, ...]]]:
    """The classifier's SavedModel, and the axes of the variables that it stores in another order."""
    from utils.export.saved_model import save_model

    weights = _weights(variant)
    if kind == "onnx-tf":
        from utils.export.onnx_to_tf import export_tensorflow
        from utils.export.torch_to_onnx import export_onnx
        from utils.models.convmixer import build_convmixer

        graph = export_onnx(build_convmixer(variant.architecture, weights), "logits")
        exported = export_tensorflow(graph, weights, variant.image_size, "logits")
    else:
        from utils.export import jax_to_tf, plain_mixer
        from utils.models import mlp_mixer

        model = mlp_mixer.build(variant.architecture)
        parameters = mlp_mixer.select_parameters(model, weights)
        if kind == "plain":
            exported = plain_mixer.export(variant.architecture, "classification", parameters)
        else:
            shape = (variant.image_size, variant.image_size, 3)
            exported = jax_to_tf.export(mlp_mixer.predict_function(model), parameters, shape, "logits")
    return save_model(exported, scratch / "model"), exported.axes


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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_parity", description=__doc__.splitlines()[0])
    known = sorted(VARIANTS)
    parser.add_argument("--variants", nargs="+", choices=known, default=DEFAULT_VARIANTS, help="all tiny, two in full")
    parser.add_argument("--output-dir", type=Path, default=TABLES, help="where the table goes (assets/tables)")
    options = parser.parse_args(arguments)
    notes = machine.description("training_parity", arguments, PACKAGES) | {
        "weights": WEIGHTS,
        "method": (
            f"{STEPS} steps of SGD, learning rate {LEARNING_RATE:g} ({LEARNING_RATE_OF_FULL_SIZE:g} at full size), "
            f"momentum {MOMENTUM:g}, cross-entropy, every weight trained; the same batch of noise with random labels "
            f"each time; the SavedModel was reloaded from disk. Passes: losses within {LOSS_TOLERANCE:g}, weights and "
            f"moving statistics within {WEIGHTS_TOLERANCE:g}. The change is the error of what training did to all "
            "variables together, relative to that alone"
        ),
    }
    collected = []
    for sample in samples(options.variants):
        collected.append(sample)
        print(
            {key: sample[key] for key in ("variant", "export", "batch_norm", "loss", "weights", "change")}, flush=True
        )
    path = tables.write(
        options.output_dir,
        "training_parity",
        "Ten training steps, export against source",
        notes,
        table(collected),
        collected,
    )
    print(f"\n{table(collected)}\n\n{path}")
    return 0 if all(row["passed"] for row in collected) else 1


if __name__ == "__main__":
    sys.exit(main())
