"""What is learned, from an extractor and images: the head, solved for features; then, if wanted, everything.

Learning's steps, in their order: `build`, `fit_head`, `train`. What is published, `fine_tuning` decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.artefact.opening import Pretrained
from utils.machine import devices
from utils.machine.measure import Stages
from utils.machine.quiet import quiet_imports
from utils.notebook.display import Remark, softmax
from utils.training import batches, features, head, model, plan, plots, scores
from utils.training.datasets import LabelledImages
from utils.training.estimate import PASSES_OF_A_STEP, Clock
from utils.training.settings import TrainingSettings
from utils.training.state import TrainingState, saver_and_bar

Facts = dict[str, Any]  # what a step shows, by title


class Learning:
    """One run. What is "auto" in the settings is decided when it is made: see `settings` and `remarks` then.

    Args:
        settings: checked.
        extractor: as `open_extractor` gives it.
        images: the data set.
        stages: where its times are noted.
        name: of the folder that keeps the state of an unfinished run.
    """

    def __init__(
        self, settings: TrainingSettings, extractor: Pretrained, images: LabelledImages, stages: Stages, name: str
    ) -> None:
        self.extractor, self.images, self._stages, self._name = extractor, images, stages, name
        self._folder = Path(settings.output_dir).expanduser().absolute()
        self._strategy = devices.choose_strategy()
        self._clock = Clock(devices.kind())
        decided = plan.decided(settings, extractor, images, self._clock.device)
        self.settings, self.remarks, self.unused = decided.settings, decided.remarks, decided.unused
        self.whole = self.settings.train == "all"

    def examples(self, count: int) -> tuple[np.ndarray, list[str]]:
        """Images as the model first sees them, augmented if everything is trained; see `shown_examples`."""
        settings, preprocessing = self.settings, self.extractor.preprocessing
        return batches.shown_examples(self.images, preprocessing, count, settings.seed, self.whole)

    def build(self) -> Facts:
        """Builds the model on what devices there are, with a head of zeros."""
        settings, images, whole = self.settings, self.images, self.whole
        self._float16 = whole and settings.precision == "auto" and devices.gains_from_float16()
        self._steps = batches.steps_per_epoch(images, settings.batch_size)
        with self._stages("build"), self._strategy.scope(), quiet_imports():
            self.trainable = model.build(settings, self.extractor, len(images.classes))
            if whole:
                total = self._steps * settings.epochs
                self.schedule = model.compile_model(self.trainable, settings, total, self._float16)
        keras, found = self.trainable.keras, self.trainable
        facts = {
            "Keras": f"{keras.__name__} {keras.__version__}, {found.layer}",
            "device": devices.describe(self._strategy),
        }
        if not whole:
            return facts
        return facts | {
            "precision": "mixed float16" if self._float16 else "float32",
            "BatchNorm": self._batch_norm(),
            "optimizer": f"{settings.optimizer}, learning rate {settings.learning_rate:g}, batches of "
            f"{settings.batch_size}",
            "trained arrays": len(found.model.trainable_variables),
            "steps": f"{self._steps * settings.epochs:,} in {settings.epochs} epochs",
        }

    def fit_head(self) -> Facts:
        """Computes the features, or reads those of an earlier run, and fits the head to them.

        For `train = "all"`, what an earlier run of these settings left is restored.
        """
        settings, images = self.settings, self.images
        with self._stages("features"):
            given = self.extractor, images, self._folder, settings.batch_size, self._clock
            self._features = found = features.features_of(self.trainable.extract, *given)
        weights = plan.class_weights(settings, images)
        with self._stages("head"):
            self.head = head.fit_head(found.train, images.train.labels, weights, settings.seed)
            self.cross_validated = self._cross_validated(weights)
        self._set_head(self.head)
        logits = self.head(found.validation)
        self.head_scores = scores.of_logits(logits, images.validation.labels, settings.label_smoothing)
        count = found.train[..., 0].size + len(found.validation)
        facts = {
            "features": f"{count:,}, " + (f"{found.rate:,.1f} images a second" if found.rate else "read from the file"),
            "penalty": f"{self.head.penalty:g}" + ("" if self.head.converged else ", and the solver was stopped early"),
            "validation accuracy of the head": self._in_words(self.head_scores),
        }
        if self.cross_validated:
            facts["by cross-validation"] = scores.in_words(self.cross_validated.right, self.cross_validated.images)
        if found.remark:
            facts["note"] = found.remark
        if self.whole:
            facts["epochs done by an earlier run"] = self._open_state()
        return facts

    def train(self) -> Facts:
        """Trains everything, if it is to be, saving the state after each epoch; the best of epochs and head is kept."""
        if self.whole:
            with self._stages("train"):
                self._fit()
            self.kept = "head" if self.state.best_epoch < 0 else "all"
        else:
            self.kept = "head"
        if self.kept == "head":
            self.scores, self._logits = self.head_scores, self.head(self._features.validation)
        else:
            self._logits = self.trainable.model.predict(self.validation(), verbose=0)
            truth = self.images.validation.labels
            self.scores = scores.of_logits(self._logits, truth, self.settings.label_smoothing)
        facts = {"validation accuracy": self._in_words(self.scores)}
        if not self.whole:
            return {"trained": "the head alone"} | facts
        best, epochs = self.state.best_epoch, self.settings.epochs
        return {
            "kept": f"epoch {best + 1} of {epochs}" if best >= 0 else "the head alone, which no epoch surpassed",
            "validation accuracy of the head": self._in_words(self.head_scores),
            **facts,
            "seconds of training": f"{self._stages.seconds['train']:.0f}",
        }

    def curves(self) -> Any:
        """Loss, accuracy and learning rate by epoch; of a head alone, a line that says why there are none."""
        if not self.whole:
            return Remark('Only the head was trained, in one go. train = "all" goes on from there.')
        return plots.plot_history(self.state.history, self.state.best_epoch, self.schedule, self._steps)

    def predict(self) -> np.ndarray:
        """Probabilities of the validation images, float64 [images, classes]."""
        return softmax(self._logits)

    def forget(self) -> None:
        """Removes the state of training: after the model was published, nothing is left to go on with."""
        if self.whole:
            self.state.remove()

    @property
    def results(self) -> dict[str, Any]:
        """What the manifest's `training` says of the outcome. Epochs count from 1; 0 is the head before the first."""
        crossed = self.cross_validated
        found = {
            "val_accuracy": self.scores.accuracy,
            "results": {
                "kept": self.kept,
                "val_balanced_accuracy": self.scores.balanced,
                "head_val_accuracy": self.head_scores.accuracy,
                "head_penalty": self.head.penalty,
                "head_cross_validated": crossed and {"right": crossed.right, "images": crossed.images},
            },
        }
        if self.whole:
            found |= {"history": self.state.history, "best_epoch": self.state.best_epoch + 1}
        return found

    def validation(self) -> tf.data.Dataset:
        """The batches of `validation_batches`."""
        return batches.validation_batches(self.images, self.extractor.preprocessing, self.settings.batch_size)

    def _open_state(self) -> int:
        """Restores what an earlier run left, or keeps the head as what to surpass; returns how many epochs are done."""
        # A folder of its own for whatever changes the steps: another learning rate is another run.
        facts = {"data": self.images.fingerprint, "backbone": dict(self.extractor.files), "layer": self.trainable.layer}
        folder = self._folder / f".{self._name}.training-{self.settings.digest(**facts)}"
        self.state = TrainingState(folder, self.trainable.model)
        if not self.state.epochs_done:
            self._set_head(self._softened())
            self.state.begin({"val_accuracy": self.head_scores.accuracy, "val_loss": self.head_scores.loss})
        return self.state.epochs_done

    def _set_head(self, found: head.Head) -> None:
        self.trainable.head.set_weights([found.kernel, found.bias])

    def _softened(self) -> head.Head:
        """The head as sure as the smoothed labels are: else the first steps, against its sureness, spoil the rest."""
        features, labels = self._features.train[0], self.images.train.labels
        heads = [self.head.scaled(2.0**-halvings) for halvings in range(12)]
        return min(heads, key=lambda one: scores.of_logits(one(features), labels, self.settings.label_smoothing).loss)

    def _batch_norm(self) -> str:
        """What it normalises by, and why that is not what was asked for."""
        found, wanted = self.trainable, self.settings.batch_norm
        if not found.features.non_trainable_variables:
            return "none in this model" + (" (batch_norm is not used)" if wanted == "batch" else "")
        if wanted == "batch" and not found.batch_norm:
            return f"moving statistics, the only ones that {found.layer} has (batch_norm is not used)"
        return "statistics of the batch" if found.batch_norm else "moving statistics"

    def _fit(self) -> None:
        """The epochs that are left; then the best one's weights, or those before the first."""
        settings, state = self.settings, self.state
        epochs = range(state.epochs_done, settings.epochs)
        given = self.images, self.extractor.preprocessing, settings.batch_size
        if epochs:
            self._tell_time(len(epochs))
            devices.set_mixed_precision(self._float16)
            weights = dict(enumerate(plan.class_weights(settings, self.images)))
            self.trainable.model.fit(
                batches.training_batches(*given, settings.seed, epochs),
                validation_data=self.validation(),
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                steps_per_epoch=self._steps,
                callbacks=[saver_and_bar(self.trainable.keras, state, self._steps, epochs)],
                class_weight=weights if settings.class_weight == "balanced" else None,
                shuffle=False,  # the batches are shuffled already; Keras 3 would warn
                verbose=0,
            )
        state.restore_best()
        if state.best_epoch < 0:
            self._set_head(self.head)

    def _tell_time(self, epochs: int) -> None:
        if not self._clock.rate:  # the features were read, or are few
            self._clock.measure(self.trainable.extract, next(iter(self.validation()))[0].numpy())
        images = PASSES_OF_A_STEP * self._steps * self.settings.batch_size + len(self.images.validation)
        self._clock.tell("Training", epochs * images / self._clock.rate)

    def _cross_validated(self, weights: np.ndarray) -> head.Score | None:
        """The head's score with every image held out once, if there are too few validation images to tell."""
        found, parts = self._features, (self.images.train, self.images.validation)
        truth = np.concatenate([part.labels for part in parts])
        if len(truth) >= scores.MANY:
            return None
        everything = np.concatenate([found.train[0], found.validation])[np.newaxis]
        crossed = head.cross_validate(everything, truth, weights, self.settings.seed, (self.head.penalty,))
        return crossed.get(self.head.penalty)

    def _in_words(self, found: scores.Scores) -> str:
        text = scores.in_words(found.right, len(self.images.validation))
        return f"{text}; balanced {found.balanced:.2%}" if plan.is_uneven(self.images) else text
