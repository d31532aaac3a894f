"""A fine-tuning, from a feature extractor and labelled images to the published classifier: every step, once.

FineTuning's steps, in their order; the notebook takes them one by one:

- `open`: the feature extractor.
- `read`: the images, split for training and validation; and what the settings leave to be decided.
- `learning.build`: extractor and new head in Keras.
- `learning.fit_head`: the features of every image, and the head, solved for them.
- `learning.train`: if everything is to be trained, the epochs that are left; the best of epochs and head is kept.
- `save`: the trained weights as a SavedModel, packed and unpacked again.
- `compare`: what was unpacked, against the trained model.
- `publish`: folder, tarball, manifest and `.keras` file appear together, or not at all.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.artefact import extra_formats, manifest
from utils.artefact.assumed import assumptions
from utils.artefact.identity import outline
from utils.artefact.record import build_record
from utils.artefact.staging import Published, Staging
from utils.families.variants import artefact_name
from utils.images import labels, photographs
from utils.images.source import read_image_file
from utils.machine import measure
from utils.machine.quiet import quiet_imports
from utils.notebook.at_hand import at_hand
from utils.notebook.display import plot_predictions
from utils.parity import comparison, golden
from utils.parity.judge import EXACT, OUTPUT_TOLERANCE, RATIO, rounded_up
from utils.parity.report import Report
from utils.text import printed
from utils.training.datasets import load_dataset
from utils.training.settings import TrainingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

with quiet_imports():
    import tensorflow as tf

    from utils.export import saved_model, signatures
    from utils.keras_models import saving
    from utils.keras_models.candidate import load_candidate
    from utils.training import model
    from utils.training.classifier import classifier, fine_tuned_name
    from utils.training.learning import Facts, Learning

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
        self.notes = [f"{extractor.name}: {text}" for text in assumptions(extractor.manifest)]
        return {
            "model": extractor.name,
            "weights": extractor.weights,
            "parameters": f"{extractor.manifest['parameters']:,}",
            "trained on": extractor.variant.trained_on,
            "images": f"{self._size} x {self._size} pixels",
        }

    def read(self) -> Facts:
        """Reads the images, decides what is "auto", and makes sure that the classifier can be written.

        `learning.remarks` say what was decided. Raises as `load_dataset`, `Staging` and `Staging.require_place`.
        """
        settings, extractor = self.settings, self.extractor
        with self.stages("load"):
            self.images = images = load_dataset(settings.dataset, settings.seed, settings.corrupt_images)
        self._labels = [labels.Label(f"class_{i}", " ".join(name.split())) for i, name in enumerate(images.classes)]
        self.name = fine_tuned_name(extractor.name, images.name)
        if settings.name:
            operations = extractor.manifest.get("operations") or "xla"
            self.name = artefact_name(settings.name, "classification", extractor.weights, operations)
        self.learning = Learning(settings, extractor, images, self.stages, self.name)
        self.settings = self.learning.settings
        needed = 4 * 4 * extractor.manifest["parameters"]
        self._staging = Staging(settings.output_dir, self.name, needed, settings.overwrite)
        with self._staging:
            made = outline(**self._facts, labels=self._labels, settings=self._kept, training=self._training)
            self._staging.require_place(made)
        listed = ", ".join(images.classes[:_LISTED]) + (", …" if len(images.classes) > _LISTED else "")
        return {
            "classes": f"{len(images.classes)}: {listed}",
            "to train on": f"{len(images.train):,} images",
            "to validate with": f"{len(images.validation):,} images",
            "train": self.settings.train,
            "will be saved as": self.name,
        }

    def save(self) -> Facts:
        """Writes the classifier, and a `.keras` file if one was trained; returns the sizes of its files."""
        extractor, staging, size = self.extractor, self._staging, self._size
        pictures = photographs.sample_photographs().items()
        self._samples = {
            title: photographs.pillow_preprocess(picture, extractor.preprocessing) for title, picture in pictures
        }
        self._allowed = max(OUTPUT_TOLERANCE, rounded_up(RATIO * self._rounding(), digits=1))
        with staging, self.stages("export"):
            exported = classifier(extractor, self.learning.trainable.arrays())
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
                self._reloaded, candidate, extractor.preprocessing, self._samples, "logits", self._allowed
            )
            self.report = Report(self._compared(candidate, candidate.variables()) + rows)
            self.keras_reports: dict[str, Report] = {}  # by backend
            if extractor.keras_file:
                trained = self.learning.trainable.arrays()
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
                settings=self._kept,
                training=self.learning.results | self._training,
                notes=self.notes,
            )
            published = staging.publish(beside | manifest.requirements(extractor.manifest) | facts)
        self.learning.forget()
        return published

    def try_on(self, photograph: str) -> Figure:
        """The best classes of a photograph, by the SavedModel's own signature; raises as `read_image_file`."""
        title, file = read_image_file(photograph)
        image = photographs.load_image(file)
        pixels = tf.constant(np.asarray(image)[None])
        probabilities = self._reloaded.signatures["serving_image"](images=pixels)["probabilities"].numpy()
        names = {self.name: [label.name for label in self._labels]}
        return plot_predictions({printed(title): image}, {self.name: probabilities}, names, min(5, len(self._labels)))

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

    @property
    def _kept(self) -> dict[str, Any]:
        """The manifest's `settings`: the extractor's, with those of this run."""
        own = {"image_size": self._size, "seed": self.settings.seed}
        return self.extractor.manifest.get("settings", {}) | own

    def _trained(self, inputs: np.ndarray) -> np.ndarray:
        return self.learning.trainable.model(inputs, training=False).numpy()

    def _compared(self, candidate: comparison.Model, arrays: model.Arrays) -> list[comparison.Row]:
        rows = comparison.compare_arrays(self.learning.trainable.arrays(), arrays, output="variables", tolerance=EXACT)
        images = next(iter(self.learning.validation()))[0].numpy()[:8]
        given = {"validation images": images}
        return rows + comparison.compare_outputs(self._trained, candidate, given, "logits", self._allowed)

    def _rounding(self) -> float:
        """How much the trained model's own answers differ between a batch and its images alone, relative, in L2."""
        batch = np.stack(list(self._samples.values()))
        whole, single = self._trained(batch), np.concatenate([self._trained(image[None]) for image in batch])
        return float(np.linalg.norm(whole - single) / np.linalg.norm(whole))

    def _write_keras(self, golden_data: golden.Golden) -> None:
        """What was trained from a `.keras` file as another one, without its optimizer; all can be trained again."""
        extractor, classifier = self.extractor, self.learning.trainable.classifier
        record = build_record(
            **self._facts,
            units=len(self._labels),
            image_size=extractor.image_size,
            labels=self._labels,
            golden=golden_data,
            tolerance=self._allowed,
            training={"dataset": self.images.name, "extractor": extractor.name},
        )
        classifier.trainable = True
        saving.save(classifier, self._staging.beside["keras"], record)

    @property
    def _training(self) -> dict[str, Any]:
        """The manifest's `training` but for the results."""
        images, settings = self.images, dataclasses.asdict(self.settings) | {"dataset": self.images.name}
        for key in ("model", "output_dir", "tflite", "name", "overwrite", "train", *self.learning.unused):
            del settings[key]  # the first five change no step
        return {
            "train": self.settings.train,
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
