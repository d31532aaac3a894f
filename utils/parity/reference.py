"""What the maker's own code computed, held against our reading of a checkpoint.

A file of tensors does not say which activation and epsilon its model was trained with, and all else that is compared
has our own reading on both sides. Only numbers from the maker's own code can prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from utils.archives import Refusal, open_zip, read_npy
from utils.errors import ParameterError, ParityError
from utils.families.base import ACTIVATIONS, Patches
from utils.files import hash_file
from utils.parity.comparison import compare_arrays, compare_outputs
from utils.parity.judge import Row, verdict
from utils.parity.proof import DTYPES, ReferenceModel
from utils.parity.references import References
from utils.parity.report import describe
from utils.tables import aligned

Build = Callable[[Patches], ReferenceModel]

MOST_IMAGES = 16  # each goes through the source in float64
_MOST_BYTES = 64 << 20  # of each of the four arrays
_EPSILONS = (1e-3, 1e-5, 1e-6)  # the defaults of Keras, of PyTorch, and of Flax and timm
_PADDED = ("right and below", "left and above")  # of even kernels, as PyTorch's "same" does it, and otherwise
_TRIED = 4  # images on which each reading is tried
_PREPROCESSING = (
    " The architecture is proved, so the maker prepares photographs otherwise. Compare image_size, crop_pct, "
    "interpolation, mean and std. Pillow must have resized the photographs too: other libraries round other pixels."
)
_EXPECTED = (
    "Expected an .npz with inputs, as the model takes them, and outputs, what the maker's own code computes for them; "
    "beside these, images (uint8 photographs) and image_outputs, or neither."
)


@dataclass(frozen=True)
class Answers:
    """What the maker's code gives, `outputs` float32 [B, units], for `inputs`, float32 [B, H, W, channels].

    title: of the inputs. names: which outputs of a model are of that width, "logits" or "features".
    """

    title: str
    inputs: np.ndarray
    outputs: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A file with the maker's answers: for what the model takes, and perhaps for photographs.

    images: uint8 [B, H, W, 3]. image_outputs: float32 [B, units].
    """

    path: Path
    sha256: str
    answers: Answers
    images: np.ndarray | None = None
    image_outputs: np.ndarray | None = None

    @property
    def head(self) -> str:
        """That of the source model to compare with: only a classifier has logits."""
        return "classification" if "logits" in self.answers.names else "fe"


def read_reference(
    path: str | Path, architecture: Patches, units: Mapping[str, int], image_size: int, photographs: bool = True
) -> Reference:
    """Reads the maker's answers as if a stranger had made the file.

    Args:
        path: An .npz with `inputs`, float32 [B, H, W, channels], and `outputs`, float32 or float64 [B, units]; also
            `images`, uint8 [B, H, W, 3], or [B, H, W] if they are grey, with `image_outputs`.
        architecture: The checkpoint's.
        units: The widths that `outputs` may have, by "logits" and "features".
        image_size: Height and width that the model takes, in pixels; 0 for any.
        photographs: Whether the model takes them.

    Raises:
        ParameterError: The file is damaged or hostile, or an array is not what the model takes or gives.
    """
    where = f"reference {path}"
    limits = dict.fromkeys(("inputs.npy", "outputs.npy", "images.npy", "image_outputs.npy"), _MOST_BYTES)
    refusal = Refusal(where, ParameterError, _EXPECTED)
    with open_zip(Path(path), refusal, limits, required=("inputs.npy", "outputs.npy")) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist()]
        arrays = {name: read_npy(archive, name) for name in names}
        sha256 = hash_file(Path(path))
    if ("images" in arrays) != ("image_outputs" in arrays):
        raise ParameterError(f"{where}: it holds {', '.join(names)}. {_EXPECTED}")
    inputs = _checked_inputs(arrays["inputs"], architecture, image_size, where)
    outputs = _checked_outputs("outputs", arrays["outputs"], len(inputs), units, where)
    fitting = tuple(name for name, width in units.items() if width == outputs.shape[1])
    reference = Reference(Path(path), sha256, Answers("reference", inputs, outputs, fitting))
    if "images" not in arrays:
        return reference
    if not photographs:
        raise ParameterError(
            f"{where}: it holds images, but a model of {architecture.channels} channels takes no photographs. Leave "
            "images and image_outputs out."
        )
    images = _checked_images(arrays["images"], where)
    units = {name: units[name] for name in fitting}
    image_outputs = _checked_outputs("image_outputs", arrays["image_outputs"], len(images), units, where)
    return replace(reference, images=images, image_outputs=image_outputs)


def _checked_inputs(array: np.ndarray, architecture: Patches, image_size: int, where: str) -> np.ndarray:
    patch, channels = architecture.patch_size, architecture.channels
    size = f"{image_size}, {image_size}" if image_size else f"at least {patch}, at least {patch}"
    expected = f"float32 [1 to {MOST_IMAGES}, {size}, {channels}], images as the model takes them, channels last"
    fits = array.dtype.name == "float32" and array.ndim == 4 and array.shape[3] == channels
    if fits:
        fits = array.shape[1:3] == (image_size,) * 2 if image_size else min(array.shape[1:3]) >= patch
    _require(fits and 0 < len(array) <= MOST_IMAGES, "inputs", array, expected, where)
    return _finite("inputs", array, where)


def _checked_outputs(key: str, array: np.ndarray, count: int, units: Mapping[str, int], where: str) -> np.ndarray:
    widths = " or ".join(f"{width} ({name})" for name, width in units.items())
    fits = array.dtype.name in ("float32", "float64") and array.ndim == 2
    fits = fits and len(array) == count and array.shape[1] in units.values()
    _require(fits, key, array, f"float32 or float64 [{count}, {widths}]", where)
    return _finite(key, array, where)


def _checked_images(array: np.ndarray, where: str) -> np.ndarray:
    """RGB: grey photographs get three equal channels, as Pillow gives them."""
    grey = array.ndim == 3
    images = array[..., np.newaxis] if grey else array
    fits = array.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3) and images.size > 0
    expected = f"uint8 [1 to {MOST_IMAGES}, height, width, 3], photographs before any preprocessing, channels last"
    _require(fits and len(images) <= MOST_IMAGES, "images", array, expected, where)
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _require(fits: bool, key: str, array: np.ndarray, expected: str, where: str) -> None:
    if not fits:
        raise ParameterError(f"{where}: {key} is {array.dtype} {list(array.shape)}; expected {expected}.")


def _finite(key: str, array: np.ndarray, where: str) -> np.ndarray:
    """The array as float32 of this machine's byte order."""
    with np.errstate(over="ignore"):  # infinity is named here
        array = np.ascontiguousarray(array, np.float32)
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ParameterError(f"{where}: {key} has {bad:,} of {array.size:,} values that are NaN or Inf.")
    return array


# --- the verdict


@dataclass(frozen=True)
class Reading:
    """One way to read the checkpoint's tensors. error: of the maker's outputs, |error| / |truth| in the L2 norm."""

    activation: str
    epsilon: float
    padding: str
    error: float
    current: bool = False

    @property
    def name(self) -> str:
        """The reading, in words."""
        padding = f", padding {self.padding}" if self.padding else ""
        return f"activation {self.activation}, epsilon {self.epsilon:g}{padding}"


@dataclass(frozen=True)
class Judgement:
    """What the maker's answers prove.

    Attributes:
        reference: the file.
        outputs: the maker's outputs against the source in float64, judged as an export's are.
        photographs: the maker's answers for photographs, which are prepared as the export prepares them; or None.
        image_outputs: the row of these; or None.
        readings: all readings of the tensors, the nearest first, unless the outputs prove the current one.
    """

    reference: Reference
    outputs: Row
    photographs: Answers | None = None
    image_outputs: Row | None = None
    readings: tuple[Reading, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """For the manifest's field `reference`."""
        count, row, images = len(self.reference.answers.inputs), self.outputs, self.image_outputs
        record = {"sha256": self.reference.sha256, "verdict": verdict(row), "inputs": count, "error": row.figure}
        if not images:
            return record
        count = len(self.photographs.inputs)
        return record | {"image_verdict": verdict(images), "images": count, "image_error": images.figure}

    @property
    def facts(self) -> dict[str, str]:
        """Each verdict with its figures, by what was compared: for people."""
        rows = filter(None, (self.outputs, self.image_outputs))
        return {row.input: f"{verdict(row).upper()}: {describe(row)}" for row in rows}

    @property
    def notices(self) -> list[str]:
        """What is not proved, and what to do."""
        found, proved = [], verdict(self.outputs) == "proved"
        if not proved:
            found.append(f"{self._verdict(self.outputs)} {self._advice()}")
        if self.image_outputs and verdict(self.image_outputs) != "proved":
            found.append(f"{self._verdict(self.image_outputs)}{_PREPROCESSING if proved else ''}")
        return found

    def table(self) -> str:
        """The readings as aligned text, the nearest first."""
        head = ("activation", "epsilon", "padding", "error", "")
        rows = [
            (each.activation, f"{each.epsilon:g}", each.padding, f"{each.error:.1e}", "current" if each.current else "")
            for each in self.readings
        ]
        return aligned([head, *rows], right=(1, 3))

    def require(self) -> None:
        """ParityError if anything is wrong."""
        if "wrong" in (self.record["verdict"], self.record.get("image_verdict")):
            raise ParityError("\n".join([*self.notices, *([self.table()] if self.readings else [])]))

    def _verdict(self, row: Row) -> str:
        return f"{self.reference.path.name}: {verdict(row).upper()}: {describe(row)}."

    def _advice(self) -> str:
        """What the readings say; which one is right only the user knows."""
        if not self.readings:
            return ""
        nearest, current = self.readings[0], next(each for each in self.readings if each.current)
        if not nearest.error < current.error / 2:
            return (
                "No other reading of the tensors comes nearer. Compute the file again with the trained model in "
                "evaluation mode, in float32 on a CPU, and with inputs as the model takes them; and compare the sizes "
                "and the set of weights with the maker's."
            )
        if nearest.padding != current.padding:
            return f"Nearest comes padding {nearest.padding}, for which there is no parameter."
        return (
            f"Nearest comes activation = {nearest.activation!r} and epsilon = {nearest.epsilon:g}. If the model was "
            "trained so, set these parameters."
        )


def judge(
    reference: Reference,
    architecture: Patches,
    build: Build,
    kept: References,
    prepare: Callable[[np.ndarray], np.ndarray],
    repadded: Callable[[ReferenceModel], ReferenceModel] | None = None,
    explain: bool = True,
) -> Judgement:
    """Holds the maker's answers against the source in float64, and tries other readings if they do not prove it.

    Nothing is raised, whatever is wrong: see `Judgement.require`.

    Args:
        reference: what `read_reference` gave.
        architecture: the reading that is converted.
        build: the source model of a reading, with the head `reference.head`.
        kept: where the source's results are remembered.
        prepare: makes of a photograph, uint8 [H, W, 3], what the model takes, float32 [H, W, channels].
        repadded: the same model with the other padding of even kernels, for a family that has kernels.
        explain: whether to try other readings, each of which takes as long as the first.
    """
    source, answers = build(architecture), reference.answers
    outputs = _row(answers, source, kept)
    judgement = Judgement(reference, outputs)
    if reference.images is not None:
        prepared = np.stack([prepare(image) for image in reference.images])
        answers = replace(answers, title="reference, photographs", inputs=prepared, outputs=reference.image_outputs)
        judgement = replace(judgement, photographs=answers, image_outputs=_row(answers, source, kept))
    if verdict(outputs) == "proved" or not explain:
        return judgement
    output = outputs.output.split(",")[0]
    readings = _readings(reference.answers, output, architecture, build, repadded)
    return replace(judgement, readings=tuple(sorted(readings, key=lambda each: each.error)))


def _row(answers: Answers, source: ReferenceModel, kept: References) -> Row:
    """The maker's outputs as if they were an export's. Where features are as wide as logits, whichever are nearer."""

    def row(name: str) -> Row:
        truth, own = (kept.output(name, partial(source.outputs, dtype=dtype), dtype) for dtype in DTYPES)
        inputs = {answers.title: answers.inputs}
        (found,) = compare_outputs(truth, lambda _: answers.outputs, inputs, f"{name}, maker's", source=own)
        return found

    return min(map(row, answers.names), key=lambda row: row.severity)


def _readings(
    answers: Answers,
    output: str,
    architecture: Patches,
    build: Build,
    repadded: Callable[[ReferenceModel], ReferenceModel] | None,
) -> Iterator[Reading]:
    """The maker's outputs held against each reading of the tensors, in float64."""
    inputs, outputs = answers.inputs[:_TRIED], answers.outputs[:_TRIED]
    now = architecture.activation, getattr(architecture, architecture.EPSILON)
    padded, otherwise = _PADDED if getattr(architecture, "kernel_size", 1) % 2 == 0 else ("", "")
    for activation, epsilon in product(ACTIVATIONS, sorted({*_EPSILONS, now[1]})):
        read = replace(architecture, activation=activation, **{architecture.EPSILON: epsilon})
        source, current = build(read), (activation, epsilon) == now
        yield Reading(activation, epsilon, padded, _error(source, inputs, outputs, output), current)
        if otherwise and repadded:
            yield Reading(activation, epsilon, otherwise, _error(repadded(source), inputs, outputs, output))


def _error(source: ReferenceModel, inputs: np.ndarray, outputs: np.ndarray, output: str) -> float:
    """Relative, in the L2 norm; infinite where the source gives no number."""
    truth = source.outputs(inputs.copy(), "float64")[output]
    (row,) = compare_arrays({"": truth}, {"": outputs}, output=output, tolerance=1.0, l2=True)
    return row.severity
