"""A model's weights as its source's trainers read them: `python -m utils.weights MODEL --output FILE`.

MODEL is a SavedModel's folder, its tarball or address, or a .keras file of this project, converted or fine-tuned. A
ConvMixer's FILE is a .safetensors of timm's names, an MLP-Mixer's an .npz of Flax's, as its authors' files are. In it
stands what it was made from, as JSON: as `mixers` in the metadata of the former, as the zip comment of the latter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from utils.artefact.manifest import manifest_text
from utils.artefact.opening import Pretrained, is_keras, open_keras, open_model
from utils.checkpoints.writing import write_npz, write_safetensors
from utils.command import run_command
from utils.errors import PackagingError, ParameterError
from utils.families import FAMILIES
from utils.families.base import COUNTER, Family
from utils.files import user_path, written_whole
from utils.machine.quiet import quiet_imports

Arrays = dict[str, np.ndarray]  # by canonical key

ENDINGS = {"PyTorch": ".safetensors", "JAX": ".npz"}  # by the source's framework


def weights_out(model: str, output: str, overwrite: bool = False) -> str:
    """Writes the weights to the file `output`; returns a sentence for people.

    overwrite: take the place of a file that is there. Raises ParameterError for what the arguments name, PackagingError
    for a model that is damaged or changed, and where nothing can be written.
    """
    path = user_path(output).absolute()
    if os.path.lexists(path) and not overwrite:
        raise ParameterError(f"--output {output} is there already. Choose another, or replace it: --overwrite.")
    opened = open_keras(user_path(model)) if is_keras(model) else open_model(model)
    framework = _family(opened).framework
    if path.suffix != ENDINGS[framework]:
        raise ParameterError(f"--output {output}: {opened.name} is for {framework}; name it *{ENDINGS[framework]}.")
    arrays = write_weights(opened, path)
    counters = sum(key.endswith(COUNTER) for key in arrays)
    synthetic = "SYNTHETIC WEIGHTS: random numbers. " if opened.weights == "synthetic" else ""
    told = f"\n{counters} of them count batches ({COUNTER}), which no export does: they are 0." if counters else ""
    return f"{synthetic}{len(arrays)} arrays for {framework}: {path}{told}"


def write_weights(opened: Pretrained, path: Path) -> Arrays:
    """Writes the file, whole or not at all; returns what is in it. The same model gives the same bytes.

    Raises as `weights_of`, and PackagingError where nothing can be written.
    """
    arrays, comment = weights_of(opened), manifest_text(facts_of(opened))
    try:
        with written_whole(path) as file:
            if path.suffix == ".npz":
                write_npz(file, arrays.items(), comment)
            else:
                write_safetensors(file, arrays, comment)
    except OSError as error:
        raise PackagingError(f"{path} cannot be written: {error}. Make room, or choose another place.") from error
    return arrays


def facts_of(opened: Pretrained) -> dict[str, object]:
    """What the file says of its origin: the model's facts, and the SHA-256 of each of its files."""
    told = {key: opened.manifest[key] for key in ("name", "variant", "head", "weights", "model")}
    return told | {"units": opened.units, "files": dict(opened.files if opened.folder else opened.hashes)}


def weights_of(opened: Pretrained) -> Arrays:
    """The checkpoint, in its own order: float32 in the source's axes; counters, which no export has, int64 zeros.

    A feature extractor has no head. PackagingError unless the model has the arrays that its manifest tells of.
    """
    family = _family(opened)
    architecture = opened.architecture
    if opened.output == "logits":  # a fine-tuned model's own
        architecture = replace(architecture, classes=opened.units)
    dropped = family.head_keys if opened.output == "features" else ()
    shapes = {key: shape for key, shape in family.layout.shapes(architecture).items() if key not in dropped}
    wanted = {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER)}
    found, names = _variables(opened), family.layout.KERAS_NAMES
    arrays = {key: names.to_checkpoint(key, found[key], wanted[key]) for key in wanted if key in found}
    problems = [f"missing {key}" for key in wanted if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in wanted]
    problems += [
        f"{key}: expected float32 {list(wanted[key])}, found {array.dtype} {list(array.shape)}"
        for key, array in arrays.items()
        if (array.shape, array.dtype) != (wanted[key], np.float32)
    ]
    if problems:
        raise PackagingError(
            f"{opened.name} has other weights than its manifest tells of: {'; '.join(problems[:10])}. Convert it again."
        )
    # Contiguous, without a copy where they are.
    return {key: np.asarray(arrays[key], order="C") if key in arrays else np.zeros((), np.int64) for key in shapes}


def _family(opened: Pretrained) -> Family:
    family = FAMILIES[opened.manifest["model"]["family"]]
    if "keras" not in family.formats:
        raise ParameterError(f"{opened.name}: the layout of {family.title} does not tell the axes of its variables.")
    return family


def _variables(opened: Pretrained) -> Mapping[str, np.ndarray]:
    """By canonical key, in the model's axes."""
    with quiet_imports():
        if opened.folder:
            from utils.export import saved_model

            return saved_model.Candidate(saved_model.load_model(opened.folder)).variables()
        from utils.keras_models.candidate import load_candidate

        return load_candidate(opened.keras_file, opened.manifest["model"]["family"]).variables()


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the file is there, 1 an error whose message was printed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m utils.weights", description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="a SavedModel's folder, tarball or address, or a .keras file")
    parser.add_argument("--output", required=True, help="the file: *.safetensors of a ConvMixer, *.npz of an MLP-Mixer")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    options = vars(parser.parse_args(arguments))
    return run_command(lambda: weights_out(**options), "Interrupted: nothing was written.")


if __name__ == "__main__":
    sys.exit(main())
