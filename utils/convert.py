"""Runs a variant's conversion notebook as a command: `python -m utils.convert --variant convmixer_768_32`.

What is in the output folder afterwards is the notebook's own work. This adds the executed notebook beside it,
chooses the checkpoint for `--checkpoint auto`, and prints where everything is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from utils.artefact.assumed import assumptions
from utils.artefact.staging import Published
from utils.command import run_command
from utils.conversion import Conversion
from utils.errors import ConversionError
from utils.families import FAMILIES
from utils.families.base import ACTIVATIONS
from utils.families.variants import HEADS, INTERPOLATIONS, OPERATIONS, OWN, VARIANTS, Variant, artefact_name
from utils.files import user_path, written_whole
from utils.notebook import execution
from utils.parity.report import Report
from utils.settings import KEYWORDS, Settings
from utils.tables import aligned
from utils.text import printed_lines

ROOT = Path(__file__).resolve().parent.parent


def run_notebook(settings: Settings, progress: str = "bar") -> Published:
    """Runs the variant's notebook; leaves it, executed, beside the artefact, under the artefact's name.

    progress: as `execution.executed` takes it. Raises ConversionError for whatever stops the notebook, and
    KeyboardInterrupt where it was interrupted.
    """
    conversion = Conversion(settings)
    conversion.check()  # an unusable file is reported before a notebook starts
    conversion.check_values()
    variant = conversion.variant
    notebook = ROOT / FAMILIES[variant.family].notebook
    if not notebook.is_file():
        raise ConversionError(f"{notebook} is not there: run this from a whole checkout of the repository.")
    folder = Path(settings.output_dir).expanduser().absolute()
    # The notebooks have the same defaults, and each only the parameters that make sense for its family.
    given = {name: value for name, value in asdict(settings).items() if value != getattr(Settings, name, None)}
    given |= {"variant": settings.variant, "output_dir": str(folder)}
    paths = {key: getattr(settings, key) for key in ("labels", "reference") if getattr(settings, key)}
    given |= {key: str(Path(path).expanduser().absolute()) for key, path in paths.items()}
    given["checkpoint"] = chosen = choose_checkpoint(variant, settings.checkpoint, settings.seed)  # may download

    weights = chosen if chosen in KEYWORDS else "custom"
    name = artefact_name(conversion.stem, settings.head, weights, settings.operations)
    made = Published(folder / name, folder / f"{name}.tar.gz", folder / f"{name}.json")
    before = _written_at(made.manifest)
    with _telling_of(made, before), execution.executed(notebook, given, progress) as written:
        if missing := [str(path) for path in made if not path.exists()]:
            raise ConversionError(f"{notebook.name} ended, but did not write {', '.join(missing)}.")
        # A rename would not do: the two may be on different file systems.
        with written.open("rb") as original, written_whole(folder / f"{name}.ipynb") as file:
            shutil.copyfileobj(original, file)
    return made


@contextmanager
def _telling_of(made: Published, before: int | None) -> Iterator[None]:
    """An interrupt that comes after the artefact was placed says that it is there."""
    try:
        yield
    except KeyboardInterrupt as error:
        if _written_at(made.manifest) == before:
            raise
        raise KeyboardInterrupt(f"Interrupted, but {made.folder} had been verified and published before.") from error


def _written_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


WARNING = """
{line}
!!! SYNTHETIC WEIGHTS for {name}: the official checkpoint is not used.
!!! {reason}
!!! The conversion is real, and verified as one of official weights is, but the weights are random numbers:
!!! the model recognises nothing. Its name, its manifest and its model card say so.
!!! To stop here instead: make convert CHECKPOINT=official (--checkpoint official).
{line}
"""


def choose_checkpoint(variant: Variant, checkpoint: str, seed: int) -> str:
    """The notebook's `checkpoint`: a keyword, or a local file's absolute path.

    "auto" is decided here, since the artefact's name depends on it, with a warning on stderr for synthetic weights.
    """
    if checkpoint != "auto":
        return checkpoint if checkpoint in KEYWORDS else str(user_path(checkpoint).absolute())
    from utils.checkpoints import loading

    found = loading.resolve(variant, "auto", seed)
    if found.reason:
        reason = found.reason.replace("\n", "\n!!! ")
        print(WARNING.format(line="!" * 100, name=variant.name, reason=reason), file=sys.stderr, flush=True)
    return found.weights


def summary(made: Published) -> str:
    """Where everything is, the parity table of the manifest, and what the notebook shows in red: for a terminal."""
    manifest = json.loads(made.manifest.read_text(encoding="utf-8"))
    places = made.facts | {"executed notebook": f"{made.folder}.ipynb"}
    lines = ["", Report.from_json(manifest["parity"]).table(), "", aligned(list(places.items()))]
    notes = [*manifest.get("notes", ()), *assumptions(manifest)]
    lines += ["", *(_in_red(printed_lines(note)) for note in notes)]
    if (reference := manifest.get("reference")) and not _is_as_asked(made):
        lines.append(_in_red(f"NOT PROVED by the numbers of reference: {reference}"))
    if manifest.get("weights") == "synthetic":
        lines += ["", "SYNTHETIC WEIGHTS: random numbers in the official format, which recognise nothing."]
    return "\n".join(lines)


def _in_red(text: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if sys.stdout.isatty() else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", help=f"{OWN} (sizes from the file), or one of: {', '.join(VARIANTS)}")
    parser.add_argument("--head", help=f"one of: {', '.join(HEADS)}")
    parser.add_argument("--checkpoint", help=f"{', '.join(KEYWORDS)}, or a local file")
    parser.add_argument("--output-dir", help="where the artefacts go (default: exports)")
    parser.add_argument("--image-size", type=_size, help="pixels; 0: any height and width (ConvMixer)")
    parser.add_argument("--seed", type=int, help="of synthetic weights and of the inputs compared")
    parser.add_argument("--operations", help=f"for the Mixer, one of: {', '.join(OPERATIONS)}")
    parser.add_argument("--labels", help="a UTF-8 file with a class name per line, for a classifier of your own")
    own = parser.add_argument_group("a checkpoint of your own")
    own.add_argument("--use-ema", action="store_true", help="the moving average of the weights in a trainer's file")
    own.add_argument("--name", help="what the artefact is called (default: the variant's name, of own the file's)")
    own.add_argument("--overwrite", action="store_true", help="let it replace an artefact of another source")
    own.add_argument("--weights", help="which of several sets of weights in the file")
    own.add_argument("--activation", help=f"auto, {', '.join(ACTIVATIONS)}")
    own.add_argument("--epsilon", type=float, help="of the normalisations; 0: what is usual")
    own.add_argument("--mean", help="by channel, numbers from 0 to 1 separated by commas")
    own.add_argument("--std", help="likewise")
    own.add_argument("--interpolation", help=f"auto, {', '.join(INTERPOLATIONS)}")
    own.add_argument("--crop-pct", type=float, help="share of the shorter side that is kept")
    own.add_argument("--reference", help="an .npz with inputs and outputs that the model's own code computed")
    parser.add_argument("--formats", help='"saved_model, keras, onnx": files of Keras 3 and, from a ConvMixer, ONNX')
    parser.add_argument("--progress", default="bar", choices=("bar", "lines"), help="lines: `cell 3 of 25` on stdout")
    parser.set_defaults(**asdict(Settings("convmixer_768_32")))
    return parser


def _size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 converted and verified, 130 interrupted.

    1 an error whose message was printed, or a model that the numbers of `reference` do not prove.
    """
    options = vars(_parser().parse_args(arguments))
    progress, made = options.pop("progress"), []

    def work() -> str:
        made.append(run_notebook(Settings(**options), progress))
        return summary(made[0])

    status = run_command(work, f"Interrupted: nothing new is in {options['output_dir']}.")
    return status or int(not all(map(_is_as_asked, made)))


def _is_as_asked(made: Published) -> bool:
    """Whether the numbers of `reference`, if some were given, prove the model."""
    reference = json.loads(made.manifest.read_text(encoding="utf-8")).get("reference")
    return not reference or {reference["verdict"], reference.get("image_verdict", "proved")} == {"proved"}


if __name__ == "__main__":
    sys.exit(main())
