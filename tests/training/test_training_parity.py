"""Ten SGD steps on an export and on its source: the same losses, the same weights; and a planted fault shows.

Both start from the same checkpoint and see the same batch: the reloaded SavedModel under tf_keras, the `.keras` file
under Keras 3, the source model under PyTorch or JAX, each with its own framework's optimizer.
"""

from typing import NamedTuple

import numpy as np
import pytest
from gate.exports import SEED, exported, flax_model, noise, torch_model, weights_of
from gate.steps import JaxStep, tensorflow_step, torch_step

from utils.families.variants import get_variant

pytestmark = pytest.mark.slow
STEPS, BATCH, LEARNING_RATE, MOMENTUM = 10, 8, 3e-3, 0.9
# Two frameworks sum in another order; each of the faults below is off by more.
LOSS_TOLERANCE, WEIGHTS_TOLERANCE = 1e-4, 1e-3


class Run(NamedTuple):
    """The loss before each step, and every variable afterwards by its name in the checkpoint."""

    losses: list[float]
    weights: dict[str, np.ndarray]


def task(variant, batch=BATCH):
    """The batch of every step, the same, so that the loss falls."""
    labels = np.random.default_rng(SEED).integers(0, variant.architecture.classes, batch)
    return noise(batch, variant.image_size), labels


def losses_of(step, batch):
    return [step(*batch) for _ in range(STEPS)]


def train_source(variant, batch, training=True):
    if variant.family == "convmixer":
        import torch

        model = torch_model(variant).train(training)
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)
        losses = losses_of(torch_step(model, optimizer), batch)
        state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        return Run(losses, {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")})
    import optax

    predict, start = flax_model(variant)
    optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    step = JaxStep(lambda trained, _, images: predict(trained, images), start, optimizer)
    losses = losses_of(step, batch)
    return Run(losses, {name: np.asarray(array) for name, array in step.trained.items()})


def train_saved_model(folder, axes, batch, training=True):
    from utils.export.saved_model import load_model, name_of

    model = load_model(folder)
    predict = lambda images: model(images, training=training)  # noqa: E731
    losses = losses_of(tensorflow_step(predict, model.trainable_variables, LEARNING_RATE, MOMENTUM), batch)
    weights = {name_of(variable): variable.numpy() for variable in model.variables}
    return Run(losses, {n: a.transpose(np.argsort(axes[n])) if n in axes else a for n, a in weights.items()})


def train_keras(variant, weights, batch, path):
    import keras

    from utils.keras_models import saving
    from utils.keras_models.candidate import load_candidate

    saving.write(path, variant, weights, "classification", variant.image_size, {})
    candidate = load_candidate(path, variant.family)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    candidate.model.compile(optimizer, loss, jit_compile=False)
    losses = losses_of(lambda *each: float(candidate.model.train_on_batch(*each)), batch)
    return Run(losses, candidate.variables())


def as_keras(variant, run, count):
    """What Keras promises of such a run: its axis order, and its variances; see `with_keras_variances`."""
    from utils.families import FAMILIES
    from utils.keras_models.candidate import with_keras_variances

    size, keys = variant.image_size, FAMILIES[variant.family].layout.KERAS_NAMES
    positions = count * variant.architecture.positions(size, size)
    promised = with_keras_variances(run.weights, weights_of(variant), positions, STEPS)
    return Run(run.losses, {key: keys.to_export_layout(key, array) for key, array in promised.items()})


def alike(source, export):
    """Whether the worst relative error of a loss, and that of a variable in L2, are within the tolerances."""
    assert set(source.weights) == set(export.weights)
    losses = np.abs(np.subtract(export.losses, source.losses)) / np.abs(source.losses)
    norm = np.linalg.norm
    errors = [norm(export.weights[name] - array) / norm(array) for name, array in source.weights.items()]
    return losses.max() <= LOSS_TOLERANCE and max(errors) <= WEIGHTS_TOLERANCE


@pytest.mark.parametrize(
    ("name", "operations", "training"),
    [
        ("convmixer_tiny", "xla", True),
        ("convmixer_tiny", "xla", False),  # BatchNorm by its moving statistics
        ("convmixer_tiny_relu", "xla", True),
        ("convmixer_tiny_relu", "xla", False),
        ("mixer_tiny", "xla", True),
        ("mixer_tiny", "plain", True),
    ],
)
def test_a_saved_model_trains_as_its_source_does(tmp_path, name, operations, training):
    from utils.export.saved_model import save_model

    variant = get_variant(name)
    batch, made = task(variant), exported(variant, operations)
    source = train_source(variant, batch, training)
    assert source.losses[-1] < 0.9 * source.losses[0]  # the steps are real ones
    assert alike(source, train_saved_model(save_model(made, tmp_path / "model"), made.axes, batch, training))


@pytest.mark.parametrize("name", ["convmixer_tiny", "convmixer_tiny_relu", "mixer_tiny"])
def test_a_keras_file_trains_as_its_source_does(tmp_path, name):
    variant = get_variant(name)
    batch = task(variant)
    source = as_keras(variant, train_source(variant, batch), BATCH)
    assert alike(source, train_keras(variant, weights_of(variant), batch, tmp_path / "model.keras"))


def test_the_other_mode_of_batch_norm_does_not_train_alike(tmp_path):
    from utils.export.saved_model import save_model

    variant = get_variant("convmixer_tiny")
    batch, made = task(variant), exported(variant)
    export = train_saved_model(save_model(made, tmp_path / "model"), made.axes, batch, training=False)
    assert not alike(train_source(variant, batch), export)


@pytest.mark.parametrize("fault", ["PyTorch's variance expected", "statistics kept"])
def test_a_planted_fault_in_a_keras_file_does_not_train_alike(tmp_path, monkeypatch, fault):
    variant = get_variant("convmixer_tiny")
    count = 1 if fault == "PyTorch's variance expected" else BATCH  # where it makes a difference: 144 positions
    batch = task(variant, count)
    if fault == "PyTorch's variance expected":
        monkeypatch.setattr("utils.keras_models.candidate.with_keras_variances", lambda found, *_: found)
    else:
        monkeypatch.setattr("utils.families.convmixer.keras_model.MOMENTUM", 1.0)
    source = as_keras(variant, train_source(variant, batch), count)
    assert not alike(source, train_keras(variant, weights_of(variant), batch, tmp_path / "model.keras"))
