"""The run itself: Keras's `fit`, which saves its state after each epoch and goes on from there when started again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm.auto import tqdm

from utils.models.variants import Preprocessing
from utils.training.batches import steps_per_epoch, training_batches, validation_batches
from utils.training.datasets import LabelledImages
from utils.training.keras_worlds import Trainable
from utils.training.settings import TrainingSettings
from utils.training.state import TrainingState

_SECONDS_BETWEEN_LOOKS = 3  # a notebook that papermill runs keeps every state of the bar as a line


def open_state(
    trainable: Trainable, settings: TrainingSettings, name: str, images: LabelledImages, files: Mapping[str, str]
) -> TrainingState:
    """The state of this very run, restored into `trainable` when an earlier one was stopped; see `epochs_done`.

    It lies hidden beside the artefact `name`, in a folder of its own for each choice of settings, data and backbone
    `files`: another learning rate is another run, which starts from the beginning.
    """
    digest = settings.digest(data=images.fingerprint, backbone=dict(files))
    state = TrainingState(Path(settings.output_dir).expanduser().absolute() / f".{name}.training-{digest}", trainable)
    state.resume()
    return state


def train(
    trainable: Trainable,
    settings: TrainingSettings,
    images: LabelledImages,
    preprocessing: Preprocessing,
    state: TrainingState,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Trains from the epoch that `state` has reached to the last one, and leaves the best epoch's weights.

    Returns the history: `loss`, `accuracy`, `val_loss`, `val_accuracy`, a value by epoch, of all epochs.
    """
    keras, done = trainable.keras, state.epochs_done
    if done < settings.epochs:
        steps = steps_per_epoch(images, settings.batch_size)
        epochs = range(done, settings.epochs)
        callbacks = [_saver(keras, state)]
        if progress:
            callbacks.append(_progress_bar(keras, steps, epochs))
        trainable.model.fit(
            training_batches(images, preprocessing, settings.batch_size, settings.seed, epochs),
            validation_data=validation_batches(images, preprocessing, settings.batch_size),
            initial_epoch=done,
            epochs=settings.epochs,
            steps_per_epoch=steps,
            callbacks=callbacks,
            shuffle=False,  # the batches are shuffled already; Keras 3 would warn
            verbose=0,
        )
    state.restore_best()
    return state.history


def _saver(keras: ModuleType, state: TrainingState) -> Any:
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: state.save(logs))


def _progress_bar(keras: ModuleType, steps: int, epochs: range) -> Any:
    """One bar for the whole run, a step per batch, with the last epoch's figures."""
    bar = tqdm(
        total=steps * epochs.stop,
        initial=steps * epochs.start,
        desc="training",
        unit="step",
        file=sys.stdout,
        mininterval=_SECONDS_BETWEEN_LOOKS,
    )

    def show(epoch: int, logs: Mapping[str, float]) -> None:
        figures = f"loss {logs['loss']:.3f}, val_accuracy {logs['val_accuracy']:.1%}"
        bar.set_postfix_str(f"epoch {epoch + 1}: {figures}", refresh=False)

    return keras.callbacks.LambdaCallback(
        # Keras 3 passes `logs` by this name.
        on_train_batch_end=lambda batch, logs: bar.update(),
        on_epoch_end=show,
        on_train_end=lambda logs: bar.close(),
    )
