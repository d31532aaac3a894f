"""The conversion of a checkpoint, from the file to the published artefact: every step, once.

    conversion = Conversion(Settings("convmixer_768_32"))
    conversion.check()    # the parameters, before anything is downloaded
    conversion.load()     # checkpoint -> arrays -> source model; the source begins to compute in the background
    conversion.export()   # source model -> TensorFlow function with variables
    conversion.save()     # function -> SavedModel -> tarball, and the files of further formats
    conversion.compare()  # the unpacked tarball against the source model in float64
    conversion.publish()  # folder, tarball and manifest appear together, or not at all

The notebooks take these steps one by one, `convert` takes them all. After an error in any step nothing is left behind.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from utils.artefact import manifest
from utils.artefact.assumed import assumptions
from utils.artefact.identity import outline
from utils.artefact.staging import Published, Staging
from utils.checkpoints import loading
from utils.errors import CheckpointError, ParityError
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, OWN, artefact_name, name_of_file
from utils.files import user_path
from utils.images import labels, photographs
from utils.machine import devices, measure, quiet
from utils.parity import golden
from utils.parity.inputs import standard_inputs
from utils.parity.judge import Row
from utils.parity.proof import Proof
from utils.parity.reference import Judgement, Reference, judge, read_reference
from utils.parity.references import References
from utils.parity.report import Report
from utils.settings import Settings, formats_of, preprocessing_for

if TYPE_CHECKING:
    from utils.export.saved_model import Candidate

Facts = dict[str, Any]  # what a step shows, by title


def convert(variant: str, **settings: Any) -> Published:
    """Converts one checkpoint in this process; returns where SavedModel folder, tarball and manifest are.

    settings: the other fields of `Settings`. This process then computes on the CPU only, unless it has imported
    TensorFlow, PyTorch or JAX before. Warns of what is assumed of one's own checkpoint. Raises ConversionErrors:
    ParameterError, CheckpointError, ParityError where the export does not compute what its source computes,
    PackagingError where it cannot be written.
    """
    conversion = Conversion(Settings(variant, **settings))
    conversion.check()
    conversion.load()
    conversion.export()
    conversion.save()
    conversion.compare()
    for assumption in conversion.assumptions:
        warnings.warn(assumption, stacklevel=2)
    return conversion.publish()


class Conversion:
    """One conversion, whose steps are called in the order of the module's docstring.

    family: of the notebook that converts, whose variants alone are taken; None for any.
    """

    def __init__(self, settings: Settings, family: str | None = None) -> None:
        self.settings, self._only = settings, family
        self.stages = measure.Stages()
        self.rows: list[Row] = []
        self.pixels: Report | None = None  # of the graph's preprocessing, where photographs are taken
        self._staging: Staging | None = None
        self.judgement: Judgement | None = None  # of the maker's own numbers

    def check(self) -> None:
        """Checks every parameter, and of a local file all that its headers say. Hides accelerators.

        Raises ParameterError for a parameter that makes no sense, CheckpointError for a file that cannot be used.
        """
        settings = self.settings
        self.variant, self._reading = settings.check(self._only), None
        if settings.is_own:
            self._reading = loading.read(loading.regular_file(settings.checkpoint), self._wanted)
            self.variant = self._reading.variant
        self.family = FAMILIES[self.variant.family]
        settings.check_family(self.family.name)
        settings.check_size(self.variant)
        self.labels = labels.class_labels(settings.labels, self.variant.labels, self.variant.architecture.classes)
        self.output = OUTPUTS[settings.head]
        self.image_size = settings.size(self.variant)
        self.preprocessing = preprocessing_for(self.variant, self.image_size)
        self.reference = self._read_reference() if settings.reference else None
        devices.use_cpu()  # accelerators round more coarsely; what is made here runs on them all the same

    def check_values(self) -> None:
        """Reads a local file's arrays once and keeps none: CheckpointError for values that no model has."""
        if self._reading:
            loading.load_arrays(self._reading)

    def _read_reference(self) -> Reference:
        """The maker's own numbers; for features they may be the logits behind them, if the file has the head."""
        architecture, units = self.variant.architecture, {}
        if architecture.classes:
            units["logits"] = architecture.classes
        if self.settings.head == "fe":
            units["features"] = getattr(architecture, architecture.WIDTH)
        path, takes = user_path(self.settings.reference), self.preprocessing.takes_photographs
        return read_reference(path, architecture, units, self.image_size, takes)

    @property
    def _wanted(self) -> loading.Wanted:
        settings = self.settings
        return loading.Wanted(
            variant=self.variant,
            family=self._only,
            head=settings.head,
            recipe=settings.recipe,
            weights=settings.weights,
            use_ema=settings.use_ema,
            proof=bool(settings.reference),
        )

    def load(self) -> Facts:
        """Fetches and reads the checkpoint, builds the source model, and starts what it has to compute.

        Raises CheckpointError for a file that is not the variant's, and PackagingError where there is no room.
        """
        settings = self.settings
        with self._step("load"):
            with quiet.quiet_imports():
                import tqdm.auto  # noqa: F401  # warns of missing widgets, and PyTorch imports it too

                self._models = self.family.models
            self.checkpoint = loading.resolve(self.variant, settings.checkpoint, settings.seed)
            reading = self._reading or loading.read(self.checkpoint.path, self._wanted, custom=False)
            loaded = self._settled(reading) if self.reference else loading.load_arrays(reading)
            self.notes, self._weights = loaded.notes, loaded.arrays
            self.names = loaded.reading.names if self._reading else {}
            architecture = self.variant.architecture
            self.source = self._models.build(architecture, loaded.arrays, settings.head)
            self.name = artefact_name(self.stem, settings.head, self.checkpoint.weights, settings.operations)
        formats = formats_of(settings.formats)
        needed = 4 * (3 + len(formats)) * self.source.parameters
        self._staging = Staging(settings.output_dir, self.name, needed_bytes=needed, overwrite=settings.overwrite)
        with self._staging:
            self._staging.require_place(outline(**self._facts, labels=self.labels, settings=self._kept))
        self._begin()
        shown = vars(architecture) | {"head": settings.head, "parameters": f"{self.source.parameters:,}"}
        proof = self.judgement.facts if self.judgement else {}
        return {"artefact": self.name} | self.checkpoint.facts | shown | proof

    def _settled(self, reading: loading.Reading) -> loading.Loaded:
        """The arrays, by the reading that the maker's numbers prove, where the file leaves several open.

        ParityError where they say that the only one is wrong, CheckpointError where they do not settle what is open.
        """
        judged = []
        for each in (reading, *reading.others):
            loaded = loading.load_arrays(each, classifier=True)
            self.judgement = self._judged(loaded.arrays, len(judged), explain=not reading.others)
            judged.append((loaded, self.judgement))
        proved = [pair for pair in judged if pair[1].record["verdict"] == "proved"]
        if reading.doubt and len(proved) != 1:
            raise CheckpointError(
                f"{reading.path}: names and order do not tell {reading.doubt}, and the numbers of "
                f"{self.reference.path.name} prove {len(proved)} of {len(judged)} readings. "
                + " ".join(judged[0][1].notices)
            )
        loaded, self.judgement = proved[0] if reading.doubt else judged[0]
        self.judgement.require()
        return loaded

    def _judged(self, weights: dict[str, np.ndarray], reading: int, explain: bool) -> Judgement:
        reference, architecture = self.reference, self.variant.architecture
        return judge(
            reference,
            architecture,
            build=lambda each: self._models.build(each, weights, reference.head),
            kept=References(self.checkpoint.sha256, repr(architecture), str(reading)),
            prepare=lambda image: photographs.pillow_preprocess(Image.fromarray(image), self.preprocessing),
            repadded=getattr(self._models, "repadded", None),
            explain=explain,
        )

    @property
    def stem(self) -> str:
        """The artefact's name before its head."""
        if self.settings.name or self.variant.name != OWN:
            return self.settings.name or self.variant.name
        return name_of_file(self.settings.checkpoint)

    @property
    def readings(self) -> dict[str, str]:
        """How far each reading of the file is from the maker's numbers, unless these prove the one that is taken."""
        readings = self.judgement.readings if self.judgement else ()
        return {each.name: f"{each.error:.1e}{' (taken)' if each.current else ''}" for each in readings}

    @property
    def assumptions(self) -> list[str]:
        """What neither a parameter nor the file tells of the model, in sentences; to be shown in red."""
        model = manifest.model_facts(self.variant, self.preprocessing)
        told = {"weights": self.checkpoint.weights, "model": model}
        if self.judgement:
            told["reference"] = self.judgement.record
        return assumptions(told) + (self.judgement.notices if self.judgement else [])

    def _begin(self) -> None:
        """Chooses the inputs, and starts the source on them in a thread: its results are needed last.

        While TensorFlow is imported, traces and saves, which takes one core, the source can use the other one.
        """
        size, seed = self.image_size or self.variant.image_size, self.settings.seed
        self.pictures = photographs.sample_photographs(2)  # a third would take long in float64, and show nothing new
        channels = self.preprocessing.channels
        self._normalised = {
            title: photographs.any_channels(picture, self.preprocessing) for title, picture in self.pictures.items()
        }
        if not self.preprocessing.takes_photographs:
            self.pictures = {}
            self.notes = [*self.notes, _NO_PHOTOGRAPHS.format(channels)]
        inputs = standard_inputs(size, size, seed, self._normalised, channels)
        if not self.image_size:  # any height and width
            other = standard_inputs(size - size // 4, size + size // 4, seed, channels=channels)
            inputs |= {f"{name}, not square": batch for name, batch in other.items() if name != "large"}
        if self.reference:
            inputs["reference"] = self.reference.answers.inputs
        references = References(self.checkpoint.sha256, repr(self.variant.architecture))
        positions = self.variant.architecture.positions(size, size)
        self.proof = Proof(self.source, self.output, inputs, positions, references)
        self._golden = references.later(
            lambda: golden.make_golden(self.proof.truth, size, size, seed, self._normalised, channels)
        )
        self.proof.begin()

    def export(self) -> Facts:
        """The source model as a TensorFlow function with variables."""
        with self._step("export"):
            self._exported, shown = self._models.export(
                self.source, self._weights, self.image_size, self.settings.operations
            )
        del self._weights  # as large as the model
        size = self.image_size or "any"
        return shown | {
            "variables": len(self._exported.variables),
            "of them trainable": len(self._exported.trainable),
            "inputs": f"float32 [B, {size}, {size}, {self.preprocessing.channels}]",
            self.output: f"float32 [B, {self._exported.units}]",
        }

    def save(self) -> Facts:
        """Writes SavedModel, golden data and the files of further formats; packs, and loads what was packed.

        From here on, everything is done with what a user will have: the SavedModel unpacked from its tarball.
        """
        with quiet.quiet_imports():
            from utils.artefact.extra_formats import ExtraFormats
            from utils.export import saved_model, signatures

        settings, staging, exported = self.settings, self._staging, self._exported
        with self._step("save"):
            saved_model.save_model(exported, staging.model_dir, signatures.image_signatures(self.preprocessing))
            signatures.write_warmup(staging.model_dir, self.preprocessing)
            self.golden = self._golden()
            golden.write_golden(staging.model_dir, self.golden)
            if settings.head == "classification" and self.labels:
                labels.write_labels(self.labels, staging.model_dir)
            self._exported = exported = exported.without_variables()  # they are as large as the model
            self._extra = ExtraFormats(formats_of(settings.formats), staging, self.proof, self.variant)
            self._extra.write(
                **self._facts,
                labels=self.labels,
                units=exported.units,
                image_size=self.image_size,
                golden=self.golden,
            )
        with self._step("package"):
            unpacked = staging.unpacked_candidate()
        with self._step("verify"):
            self.candidate: Candidate = saved_model.Candidate(saved_model.load_model(unpacked), exported.axes)
        return {path: f"{(unpacked / path).stat().st_size / 1e6:.2f} MB" for path in staging.files}

    def compare(self, progress: bool = False) -> Report:
        """Holds the export against the source: variables, outputs, normalisation, gradients, training, photographs.

        progress: show a bar. Whether all passes, the report says; `require` raises. ParityError where
        the graph's preprocessing does not give Pillow's pixels.
        """
        from utils.export.signatures import compare_reference, compare_signatures

        batches, proof, candidate = self.proof.inputs | {"golden": self.golden.inputs}, self.proof, self.candidate
        with self._step("verify"):
            self.rows = []
            comparisons = [
                partial(proof.compare_variables, candidate),
                *(partial(proof.compare_outputs, candidate, *batch) for batch in batches.items()),
                partial(proof.compare_normalisation, candidate),
                *([partial(proof.compare_maps, candidate.maps)] if proof.has_maps else []),
                partial(proof.compare_gradients, candidate),
                partial(proof.compare_training, candidate),
            ]
            for compare in _bar(comparisons) if progress else comparisons:
                self.rows += compare()
            self._extra.prove({"golden": self.golden.inputs})
            if self.preprocessing.takes_photographs:
                allowed = Report(self.rows).tolerances[self.output]
                self.pixels, rows = compare_signatures(
                    candidate.model, candidate, self.preprocessing, self._normalised, self.output, allowed
                )
                self.rows += rows
                if self.judgement and self.judgement.photographs:
                    pixels, rows = compare_reference(
                        candidate.model, self.judgement, self.preprocessing, self.output, proof.truth, allowed
                    )
                    self.pixels = Report([*self.pixels.rows, *pixels])
                    self.rows += rows
        return self.report

    @property
    def report(self) -> Report:
        """All that was compared, by name of the source framework."""
        return Report(self.rows, framework=self.family.framework)

    @property
    def extra_reports(self) -> Iterator[tuple[str, Report]]:
        """Title and report of each further file, by what computed it."""
        return self._extra.reports

    @property
    def answers(self) -> dict[str, np.ndarray]:
        """What source and export give for the photographs, by framework."""
        own = self.proof.own(self.proof.inputs["photographs"])
        return {self.family.framework: own, "TensorFlow": self.proof.found["photographs"]}

    def require(self) -> None:
        """Raises ParityError with the failed figures unless everything compared passes; then nothing is left."""
        with self._step("verify"):
            if not self.rows:
                raise ParityError(f"{self.name} was not compared with its source. Call compare() before publish().")
            self.report.require()
            self._extra.require()

    def publish(self) -> Published:
        """Puts folder, tarball, manifest and further files in place, together; raises as `require`."""
        from utils.export import saved_model

        self.require()
        exported = self._exported
        with self._step("publish"):
            facts = self._extra.facts | manifest.build_manifest(
                **self._facts,
                versions=manifest.installed_versions(self.family.libraries) | exported.extra_versions,
                signatures=saved_model.describe_signatures(self.candidate.model),
                parity=self.report.to_json(),
                seconds={stage: self.stages.seconds[stage] for stage in _STAGES},
                peak_memory_mb=self.stages.peak_memory_mb,
                files=self._staging.files,
                preprocessing_parity=self.pixels and self.pixels.to_json(),
                notes=self.notes,
                settings=self._kept,
                names=self.names or None,
                reference=self.judgement.record if self.judgement else None,
            )
            return self._staging.publish(facts)

    @property
    def _kept(self) -> Facts:
        """The settings that the manifest tells."""
        settings = self.settings
        kept = {"image_size": self.image_size, "seed": settings.seed}
        if len(self.family.operations) > 1:
            kept["operations"] = settings.operations
        if settings.use_ema:
            kept["use_ema"] = True
        if settings.weights != "auto":
            kept["weights"] = settings.weights
        return kept

    @property
    def _facts(self) -> Facts:
        """What the manifest and the records of further files have in common."""
        return {
            "name": self.name,
            "variant": self.variant,
            "head": self.settings.head,
            "weights": self.checkpoint.weights,
            "source": self.checkpoint.record,
            "parameters": self.source.parameters,
            "preprocessing": self.preprocessing,
        }

    @property
    def seconds(self) -> str:
        """How long each stage took, for people."""
        return ", ".join(f"{stage} {self.stages.seconds[stage]:.1f}" for stage in _STAGES)

    @contextmanager
    def _step(self, stage: str) -> Iterator[None]:
        """Times a step; an error in it, an interrupt too, removes what was staged."""
        with self._staging or nullcontext(), self.stages(stage):
            yield


_NO_PHOTOGRAPHS = (
    "its images have {} channels, and photographs 1 or 3: it has no signatures that take photographs, and inputs that "
    "are made of photographs repeat their channels"
)
_STAGES = ("load", "export", "save", "package", "verify")  # in the manifest


def _bar(comparisons: list[Callable[[], list[Row]]]) -> Iterator[Callable[[], list[Row]]]:
    from tqdm.auto import tqdm

    return tqdm(comparisons, desc="comparisons", file=sys.stdout)
