"""A fine-tuning, from a feature extractor and labelled images to the published classifier: every step, once.

FineTuning's steps, in their order; the notebook takes them one by one:

- `open`: the feature extractor.
- `read`: the images, split for training and validation.
- `build`: extractor and new head in Keras, and the state of an earlier run, if one was stopped.
- `train`: the epochs that are left; then the weights of the best one are put back.
- `save`: the trained weights as a SavedModel, packed and unpacked again.
- `compare`: what was unpacked, against the trained model.
- `publish`: folder, tarball, manifest and `.keras` file appear together, or not at all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.artefact import extra_formats, manifest
from utils.artefact.opening import Pretrained
from utils.artefact.record import build_record
from utils.artefact.staging import Published, Staging
from utils.families import FAMILIES
from utils.images import labels, photographs
from utils.machine import devices, measure
from utils.machine.quiet import quiet_imports
from utils.notebook.at_hand import at_hand
from utils.notebook.display import softmax
from utils.parity import comparison, golden
from utils.parity.judge import EXACT, OUTPUT_TOLERANCE
from utils.parity.report import Report
from utils.training.datasets import load_dataset
from utils.training.settings import TrainingSettings

with quiet_imports():
    import tensorflow as tf

    from utils.export import saved_model, signatures
    from utils.export.function import ExportedFunction
    from utils.keras_models import saving
    from utils.keras_models.candidate import load_candidate
    from utils.training import batches, model
    from utils.training.state import TrainingState, saver_and_bar

Facts = dict[str, Any]  # what a step shows, by title
_LIBRARIES = ("python", "tensorflow", "tensorflow-hub", "tf_keras", "keras", "numpy")  # versions in the manifest
_LISTED = 12  # classes that are shown by name


class FineTuning:
    """One fine-tuning, whose steps are called in the order of the module's docstring; settings: checked."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.stages = measure.Stages()

    def open(self) -> Facts:
        """Opens the feature extractor; raises as `at_hand` and `open_extractor`."""
        settings = self.settings
        with self.stages("load"), quiet_imports():
            chosen, self.notice = at_hand(settings.model, "fe", settings.output_dir)
            self.extractor = model.open_extractor(chosen, settings.image_size, settings.keras)
        extractor, self._size = self.extractor, self.extractor.preprocessing.crop
        synthetic = extractor.weights == "synthetic"
        self.weights_note = "The backbone starts from SYNTHETIC WEIGHTS, random numbers" if synthetic else ""
        return {
            "model": extractor.name,
            "weights": extractor.weights,
            "parameters": f"{extractor.manifest['parameters']:,}",
            "trained on": extractor.variant.trained_on,
            "images": f"{self._size} x {self._size} pixels",
        }

    def read(self) -> Facts:
        """Reads the images, and makes sure that the classifier can be written; raises as `load_dataset`, `Staging`."""
        settings, extractor = self.settings, self.extractor
        with self.stages("load"):
            self.images = load_dataset(settings.dataset, settings.batch_size, settings.seed, settings.corrupt_images)
        images = self.images
        self.name = fine_tuned_name(extractor.name, images.name)
        self._staging = Staging(settings.output_dir, self.name, needed_bytes=4 * 4 * extractor.manifest["parameters"])
        listed = ", ".join(images.classes[:_LISTED]) + (", …" if len(images.classes) > _LISTED else "")
        return {
            "classes": f"{len(images.classes)}: {listed}",
            "to train on": len(images.train),
            "to validate with": len(images.validation),
            "will be saved as": self.name,
        }

    def augmented(self, count: int) -> tuple[np.ndarray, list[str]]:
        """Training images as the first epoch shows them; see `augmented_examples`."""
        return batches.augmented_examples(self.images, self.extractor.preprocessing, count, self.settings.seed)

    def build(self) -> Facts:
        """Builds the model on what devices there are. What an earlier run of these settings left is restored."""
        settings, images = self.settings, self.images
        strategy = devices.choose_strategy()
        float16 = settings.precision == "auto" and devices.gains_from_float16()
        devices.set_mixed_precision(float16)
        self.steps = batches.steps_per_epoch(images, settings.batch_size) * settings.epochs
        with self.stages("build"), strategy.scope(), quiet_imports():
            self.trainable = model.build(settings, self.extractor, len(images.classes), self.steps, float16)
        layer, keras = self.trainable.layer, self.trainable.keras
        # A folder of its own for whatever changes the steps: another learning rate is another run.
        digest = settings.digest(data=images.fingerprint, backbone=dict(self.extractor.files), layer=layer)
        folder = Path(settings.output_dir).expanduser().absolute() / f".{self.name}.training-{digest}"
        self.state = TrainingState(folder, self.trainable.model)
        return {
            "Keras": f"{keras.__name__} {keras.__version__}, {layer}",
            "device": devices.describe(strategy),
            "precision": "mixed float16" if float16 else "float32",
            "optimizer": settings.optimizer,
            "trained arrays": len(self.trainable.model.trainable_variables),
            "steps": f"{self.steps:,}",
            "epochs done by an earlier run": self.state.epochs_done,
        }

    def train(self) -> Facts:
        """Trains to the last epoch, saving the state after each, and puts the best epoch's weights back."""
        settings, state, steps = self.settings, self.state, self.steps // self.settings.epochs
        epochs = range(state.epochs_done, settings.epochs)
        given = self.images, self.extractor.preprocessing, settings.batch_size
        with self.stages("train"):
            if epochs:
                self.trainable.model.fit(
                    batches.training_batches(*given, settings.seed, epochs),
                    validation_data=batches.validation_batches(*given),
                    initial_epoch=epochs.start,
                    epochs=epochs.stop,
                    steps_per_epoch=steps,
                    callbacks=[saver_and_bar(self.trainable.keras, state, steps, epochs)],
                    shuffle=False,  # the batches are shuffled already; Keras 3 would warn
                    verbose=0,
                )
            state.restore_best()
        history, best = state.history, state.best_epoch
        return {
            "best epoch": f"{best + 1} of {self.settings.epochs}",
            "validation accuracy": f"{history['val_accuracy'][best]:.2%}",
            "validation loss": f"{history['val_loss'][best]:.4f}",
            "seconds of training": f"{self.stages.seconds['train']:.0f}",
        }

    def predict(self) -> np.ndarray:
        """Probabilities of the validation images, float64 [images, classes]."""
        return softmax(self.trainable.model.predict(self._validation(), verbose=0))

    def save(self) -> Facts:
        """Writes the classifier, and a `.keras` file if one was trained; returns the sizes of its files."""
        extractor, staging, size = self.extractor, self._staging, self._size
        self._labels = [
            labels.Label(f"class_{i}", " ".join(name.split())) for i, name in enumerate(self.images.classes)
        ]
        pictures = photographs.sample_photographs().items()
        self._samples = {
            title: photographs.pillow_preprocess(picture, extractor.preprocessing) for title, picture in pictures
        }
        with staging, self.stages("export"):
            exported = classifier(extractor, self.trainable.arrays())
        with staging, self.stages("save"):
            images = signatures.image_signatures(extractor.preprocessing)
            saved_model.save_model(exported, staging.model_dir, images)
            labels.write_labels(self._labels, staging.model_dir)
            golden_data = golden.make_golden(
                self._trained, size, size, self.settings.seed, self._samples, extractor.preprocessing.channels
            )
            golden.write_golden(staging.model_dir, golden_data)
            signatures.write_warmup(staging.model_dir, extractor.preprocessing)
            if extractor.keras_file:
                self._write_keras(golden_data)
        with staging, self.stages("package"):
            self._unpacked = staging.unpacked_candidate()
        return {path: f"{(self._unpacked / path).stat().st_size / 1e6:.2f} MB" for path in staging.files}

    def compare(self) -> Report:
        """Holds what was unpacked, and the `.keras` file, against the trained model, bit for bit and by its answers.

        Whether they pass, the reports say: the SavedModel's, and that in `keras_reports`, if there is such a file.
        ParityError if the graph's preprocessing does not give Pillow's pixels.
        """
        extractor, staging = self.extractor, self._staging
        with staging, self.stages("verify"):
            self._reloaded = saved_model.load_model(self._unpacked)
            candidate = saved_model.Candidate(self._reloaded)
            self.pixels, rows = signatures.compare_signatures(
                self._reloaded, candidate, extractor.preprocessing, self._samples, "logits", OUTPUT_TOLERANCE
            )
            self.report = Report(self._compared(candidate, candidate.variables()) + rows)
            self.keras_reports: dict[str, Report] = {}  # by backend
            if extractor.keras_file:
                trained = self.trainable.arrays()
                native = load_candidate(staging.beside["keras"], extractor.variant.family)
                arrays = {key: array.reshape(trained[key].shape) for key, array in native.variables().items()}
                self.keras_reports["tensorflow"] = Report(self._compared(native, arrays))
        return self.report

    def publish(self) -> Published:
        """Puts everything in place and removes the state of training. ParityError unless every comparison passed."""
        extractor, staging = self.extractor, self._staging
        with staging:
            self.report.require()
            beside = {}
            if self.keras_reports:
                extra_formats.require("keras", self.keras_reports)
                beside["keras"] = extra_formats.facts("keras", staging.beside["keras"], self.keras_reports)
            versions = extractor.manifest["versions"] | manifest.installed_versions(_LIBRARIES)
            facts = manifest.build_manifest(
                **self._facts,
                versions=versions,
                signatures=saved_model.describe_signatures(self._reloaded),
                parity=self.report.to_json(),
                seconds=self.stages.seconds,
                peak_memory_mb=self.stages.peak_memory_mb,
                files=staging.files,
                preprocessing_parity=self.pixels.to_json(),
                settings={"image_size": self._size, "seed": self.settings.seed},
                training=self._record(),
            )
            published = staging.publish(beside | manifest.requirements(extractor.manifest) | facts)
        self.state.remove()
        return published

    @property
    def _facts(self) -> dict[str, Any]:
        """What the manifest and the `.keras` file's record have in common."""
        extractor = self.extractor
        return {
            "name": self.name,
            "variant": extractor.variant,
            "head": "classification",
            "weights": extractor.weights,
            "source": extractor.manifest["source"],
            "parameters": extractor.manifest["parameters"] + (extractor.units + 1) * len(self.images.classes),
            "preprocessing": extractor.preprocessing,
        }

    def _validation(self) -> tf.data.Dataset:
        return batches.validation_batches(self.images, self.extractor.preprocessing, self.settings.batch_size)

    def _trained(self, inputs: np.ndarray) -> np.ndarray:
        return self.trainable.model(inputs, training=False).numpy()

    def _compared(self, candidate: comparison.Model, arrays: model.Arrays) -> list[comparison.Row]:
        rows = comparison.compare_arrays(self.trainable.arrays(), arrays, output="variables", tolerance=EXACT)
        images = next(iter(self._validation()))[0].numpy()[:8]
        return rows + comparison.compare_outputs(self._trained, candidate, {"validation images": images}, "logits")

    def _write_keras(self, golden_data: golden.Golden) -> None:
        """What was trained from a `.keras` file as another one, without its optimizer; all can be trained again."""
        extractor, trained = self.extractor, self.trainable.model
        record = build_record(
            **self._facts,
            units=len(self._labels),
            image_size=extractor.image_size,
            labels=self._labels,
            golden=golden_data,
            tolerance=OUTPUT_TOLERANCE,
            training={"dataset": self.images.name, "extractor": extractor.name},
        )
        trained.trainable = True
        (inputs,), (outputs,) = trained.inputs, trained.outputs
        classifier = self.trainable.keras.Model(inputs, outputs, name=trained.name)
        saving.save(classifier, self._staging.beside["keras"], record)

    def _record(self) -> dict[str, Any]:
        """The manifest's `training`: history by epoch, the epoch that was kept (from 1), data set, settings."""
        images, settings = self.images, dataclasses.asdict(self.settings) | {"dataset": self.images.name}
        for path in ("model", "output_dir"):  # they are of this machine only
            del settings[path]
        return {
            "history": self.state.history,
            "best_epoch": self.state.best_epoch + 1,
            "dataset": {
                "name": images.name,
                "classes": len(images.classes),
                "training_images": len(images.train),
                "validation_images": len(images.validation),
                "skipped_files": len(images.skipped),
                "sha256": images.fingerprint,
            },
            "settings": settings,
            "extractor": self.extractor.name,
        }


def classifier(extractor: Pretrained, arrays: Mapping[str, np.ndarray]) -> ExportedFunction:
    """The extractor's function, loaded again, with the trained `arrays` for its variables, followed by the new head.

    Independent of the Keras that trained, and of the devices.
    """
    backbone = saved_model.load_model(extractor.folder)
    variables = {saved_model.name_of(variable): variable for variable in backbone.variables}
    for name, variable in variables.items():
        variable.assign(arrays[name])
    trainable = {saved_model.name_of(variable): variable for variable in backbone.trainable_variables}
    head = {name: tf.Variable(arrays[name], name=name) for name in FAMILIES[extractor.variant.family].head_keys}
    kernel, bias = head.values()

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.nn.bias_add(tf.matmul(backbone(inputs, training=training), kernel), bias)

    return ExportedFunction(
        call=call,
        variables=variables | head,
        trainable=trainable | head,
        output="logits",
        units=bias.shape[0],
        input_shape=tuple(extractor.manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1:]),
        # A Mixer's gradient is one that its exporter defined; without this it would be lost on the way.
        save_options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def fine_tuned_name(extractor_name: str, dataset: str) -> str:
    """Of the artefact: `<variant>_classification[_plain]_<dataset>[_synthetic]`, from the extractor's own name.

    Of characters of `dataset` that an artefact's name may not have, only underscores are left. Appends "_images" if the
    name would end in a word that is reserved for the weights or their storage.
    """
    synthetic = "_synthetic" if extractor_name.endswith("_synthetic") else ""
    stem = extractor_name.removesuffix("_synthetic").replace("_fe", "_classification", 1)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", dataset).strip("_")[:40] or "images"
    if plain.rpartition("_")[2] in ("synthetic", "float32", "float16", "int8"):
        plain += "_images"
    return f"{stem}_{plain}{synthetic}"
