"""The state of a training on disk, from which a stopped run goes on when it is started again.

The state is that after the last whole epoch, and the weights of the best one. `tf.train.CheckpointManager` writes it,
which never leaves a half-written checkpoint as the latest.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf
from tqdm.auto import tqdm

from utils.errors import PackagingError
from utils.training.model import variables_of


class TrainingState:
    """The state of one run in a folder of its own: all variables, the history by epoch, and which epoch was best.

    What an earlier run left there is restored into the Keras `model`. PackagingError if that is not a state of this
    very model and optimizer.
    """

    def __init__(self, folder: Path, model: Any) -> None:
        def manager(name: str, **state: Any) -> tf.train.CheckpointManager:
            return tf.train.CheckpointManager(tf.train.Checkpoint(**state), str(folder / name), max_to_keep=1)

        self.folder = folder
        self.history: dict[str, list[float]] = {}
        self._start: dict[str, float] = {}
        self._text = tf.Variable("[{}, {}]", dtype=tf.string, trainable=False)
        weights, optimizer = variables_of(model), variables_of(model.optimizer)
        self._latest = manager("latest", model=weights, optimizer=optimizer, history=self._text)
        self._best = manager("best", model=weights)
        if self._latest.latest_checkpoint is None:
            return
        try:
            self._latest.checkpoint.restore(self._latest.latest_checkpoint).assert_consumed()
            self._start, self.history = json.loads(self._text.numpy())
        except (OSError, AssertionError, ValueError, tf.errors.OpError) as error:
            raise PackagingError(
                f"{folder} does not hold the state of this run, or is damaged ({str(error).splitlines()[0]}). "
                "Remove it to train from the beginning."
            ) from error

    @property
    def epochs_done(self) -> int:
        """How many whole epochs the history has."""
        return len(self.history.get("val_accuracy", ()))

    @property
    def best_epoch(self) -> int:
        """The epoch, from 0, of the best validation accuracy; among equals, of the lowest validation loss.

        -1 is before the first epoch, see `begin`.
        """
        accuracy, loss = ([self._start[name], *self.history.get(name, ())] for name in ("val_accuracy", "val_loss"))
        return min(range(self.epochs_done + 1), key=lambda number: (-accuracy[number], loss[number])) - 1

    def begin(self, figures: Mapping[str, float]) -> None:
        """Keeps the weights that there are: what an epoch must surpass. figures: their val_accuracy and val_loss."""
        self._start = dict(figures)
        with self._explained():
            self._best.save()

    def save(self, logs: Mapping[str, Any]) -> None:
        """Adds an epoch's figures to the history and writes it all; the best epoch's weights first."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        with self._explained():
            if self.best_epoch == self.epochs_done - 1:
                self._best.save()
            self._text.assign(json.dumps([self._start, self.history]))
            self._latest.save()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise PackagingError(
                f"the state of training could not be written to {self.folder}: {error}. Free some space or choose "
                "another output_dir; the state of the epoch before is kept."
            ) from error

    def restore_best(self) -> None:
        """Puts the best epoch's weights into the model."""
        self._best.checkpoint.restore(self._best.latest_checkpoint).assert_consumed()

    def remove(self) -> None:
        """Removes the state: after the model was published, nothing is left to go on with."""
        shutil.rmtree(self.folder, ignore_errors=True)


def saver_and_bar(keras: ModuleType, state: TrainingState, steps: int, epochs: range) -> Any:
    """A callback that saves the state after each epoch, and shows one bar for the whole run, a step per batch.

    Args:
        keras: the module whose model is trained, Keras 3 or tf_keras.
        state: of the run.
        steps: of an epoch.
        epochs: those that are still to come.
    """
    bar = tqdm(
        total=steps * epochs.stop,
        initial=steps * epochs.start,
        desc="training",
        unit="step",
        file=sys.stdout,
        mininterval=3,  # a notebook that papermill runs keeps every state of the bar as a line
    )

    def end_of_epoch(epoch: int, logs: Mapping[str, float]) -> None:
        state.save(logs)
        figures = f"loss {logs['loss']:.3f}, val_accuracy {logs['val_accuracy']:.1%}"
        bar.set_postfix_str(f"epoch {epoch + 1}: {figures}", refresh=False)

    return keras.callbacks.LambdaCallback(
        # Keras 3 passes `logs` by this name.
        on_train_batch_end=lambda batch, logs: bar.update(),
        on_epoch_end=end_of_epoch,
        on_train_end=lambda logs: bar.close(),
    )
