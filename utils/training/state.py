"""Where a stopped run goes on: the state after its last whole epoch, and the weights of its best one, on disk.

Written by `tf.train.CheckpointManager`, which never leaves a half-written checkpoint as the latest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from utils.errors import PackagingError
from utils.training.keras_worlds import Trainable


class TrainingState:
    """The state of one run in a folder of its own: all variables, the history by epoch, and which epoch was best."""

    def __init__(self, folder: Path, trainable: Trainable) -> None:
        self.folder = folder
        self.history: dict[str, list[float]] = {}
        self._text = tf.Variable("{}", dtype=tf.string, trainable=False)
        state = {"model": trainable.state, "optimizer": trainable.optimizer_state, "history": self._text}
        self._latest = _manager(tf.train.Checkpoint(**state), folder / "latest")
        self._best = _manager(tf.train.Checkpoint(model=trainable.state), folder / "best")

    @property
    def epochs_done(self) -> int:
        """How many whole epochs the history has."""
        return len(self.history.get("val_accuracy", ()))

    @property
    def best_epoch(self) -> int:
        """The epoch, from 0, of the best validation accuracy; among equals, of the lowest validation loss."""
        pairs = zip(self.history["val_accuracy"], self.history["val_loss"], strict=True)
        ranked = [(-accuracy, loss) for accuracy, loss in pairs]
        return ranked.index(min(ranked))

    def resume(self) -> int:
        """Restores the latest state, if there is one, and returns how many epochs are done.

        Raises PackagingError when what is there is not a state of this very model and optimizer.
        """
        if self._latest.latest_checkpoint is None:
            return 0
        try:
            self._latest.checkpoint.restore(self._latest.latest_checkpoint).assert_consumed()
            self.history = json.loads(self._text.numpy())
        except (OSError, AssertionError, ValueError, tf.errors.OpError) as error:
            raise PackagingError(
                f"{self.folder} does not hold the state of this run, or is damaged ({str(error).splitlines()[0]}). "
                "Remove it to train from the beginning."
            ) from error
        return self.epochs_done

    def save(self, logs: Mapping[str, Any]) -> None:
        """Adds an epoch's figures to the history and writes it all; the best epoch's weights first."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        try:
            if self.best_epoch == self.epochs_done - 1:
                self._best.save()
            self._text.assign(json.dumps(self.history))
            self._latest.save()
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


def _manager(checkpoint: tf.train.Checkpoint, folder: Path) -> tf.train.CheckpointManager:
    return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)
