"""Runs a variant's conversion notebook as a command: `python -m utils.convert --variant convmixer_768_32`.

What is in the output folder afterwards is the notebook's own work. This adds the executed notebook beside it,
chooses the checkpoint for `--checkpoint auto`, and prints where everything is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from utils.command import run_command
from utils.errors import ConversionError
from utils.families import FAMILIES
from utils.families.variants import BESIDE, HEADS, OPERATIONS, VARIANTS, Variant, artefact_name
from utils.notebook import execution
from utils.parity.report import Report
from utils.settings import KEYWORDS, Settings

ROOT = Path(__file__).resolve().parent.parent


def run_notebook(settings: Settings, progress: str = "bar") -> list[Path]:
    """Runs the variant's notebook; returns SavedModel folder, tarball, manifest and executed notebook.

    progress: as `execution.executed` takes it. Raises ConversionError for whatever stops the notebook, and
    KeyboardInterrupt where it was interrupted.
    """
    variant = settings.check()
    folder = Path(settings.output_dir).expanduser().absolute()
    given = {"variant": variant.name, "head": settings.head, "image_size": settings.size(variant)}
    given |= {"output_dir": str(folder), "checkpoint": settings.checkpoint}
    # The notebooks have the same defaults, and each only the parameters that make sense for its family.
    others = {name: getattr(settings, name) for name in ("seed", "operations", "use_ema", "formats")}
    given |= {name: value for name, value in others.items() if value != getattr(Settings, name)}
    if settings.labels:
        given["labels"] = str(Path(settings.labels).expanduser().absolute())
    notebook = ROOT / FAMILIES[variant.family].notebook
    execution.require_parameters(notebook, given)
    given["checkpoint"] = chosen = choose_checkpoint(variant, settings.checkpoint, settings.seed)  # may download

    weights = chosen if chosen in KEYWORDS else "custom"
    name = artefact_name(variant.name, settings.head, weights, settings.operations)
    made = [folder / name, folder / f"{name}.tar.gz", folder / f"{name}.json", folder / f"{name}.ipynb"]
    with execution.executed(notebook, given, progress) as written:
        if missing := [str(path) for path in made[:3] if not path.exists()]:
            raise ConversionError(f"{notebook.name} ended, but did not write {', '.join(missing)}.")
        execution.place(written, made[3])
    return made


def choose_checkpoint(variant: Variant, checkpoint: str, seed: int) -> str:
    """The notebook's `checkpoint`: a keyword, or a local file's absolute path.

    "auto" is decided here, since the artefact's name depends on it, with a warning on stderr for synthetic weights.
    """
    if checkpoint != "auto":
        keep = checkpoint in KEYWORDS or not checkpoint.strip()  # the notebook refuses an empty one
        return checkpoint if keep else str(Path(checkpoint).expanduser().absolute())
    from utils.checkpoints import loading

    found = loading.resolve(variant, "auto", seed)
    if found.reason:
        _warn(variant, found.reason)
    return found.weights


def summary(made: list[Path]) -> str:
    """Where everything is, and the parity table of the manifest: text for a terminal."""
    folder, tarball, manifest_path, notebook = made
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    lines = [
        "",
        Report.from_json(manifest["parity"]).table(),
        "",
        f"SavedModel         {folder}{os.sep}",
        f"Tarball            {tarball} ({tarball.stat().st_size / 1e6:.1f} MB)",
        *(f"{BESIDE[key]:<18} {folder}.{key}" for key in BESIDE if Path(f"{folder}.{key}").is_file()),
        f"Manifest           {manifest_path}",
        f"Executed notebook  {notebook}",
    ]
    if manifest.get("weights") == "synthetic":
        lines += ["", "SYNTHETIC WEIGHTS: random numbers in the official format, which recognise nothing."]
    return "\n".join(lines)


WARNING = """
{line}
!!! SYNTHETIC WEIGHTS for {name}: the official checkpoint is not used.
!!! {reason}
!!! The conversion is real, and verified as one of official weights is, but the weights are random numbers:
!!! the model recognises nothing. Its name, its manifest and its model card say so.
!!! To stop here instead: make convert CHECKPOINT=official (--checkpoint official).
{line}
"""


def _warn(variant: Variant, reason: str) -> None:
    text = WARNING.format(line="!" * 100, name=variant.name, reason=reason.replace("\n", "\n!!! "))
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="convmixer_768_32", help=f"one of: {', '.join(VARIANTS)}")
    parser.add_argument("--head", default="classification", help=f"one of: {', '.join(HEADS)}")
    parser.add_argument("--checkpoint", default="auto", help=f"{', '.join(KEYWORDS)}, or a local file")
    parser.add_argument("--output-dir", default="exports", help="where the artefacts go (default: exports)")
    parser.add_argument("--image-size", type=int, help="pixels; 0: any height and width (ConvMixer)")
    parser.add_argument(
        "--seed", type=int, default=Settings.seed, help="of synthetic weights and of the inputs compared"
    )
    parser.add_argument(
        "--operations", default=Settings.operations, help=f"for the Mixer, one of: {', '.join(OPERATIONS)}"
    )
    parser.add_argument(
        "--labels",
        default=Settings.labels,
        help="a UTF-8 file with one class name per line, for a classifier of one's own",
    )
    parser.add_argument("--use-ema", action="store_true", help="ConvMixer: the moving average in a trainer's file")
    parser.add_argument(
        "--formats",
        default=Settings.formats,
        help='"saved_model, keras, onnx" for files of Keras 3 and, from a ConvMixer, ONNX',
    )
    parser.add_argument("--progress", default="bar", choices=("bar", "lines"), help="lines: `cell 3 of 25` on stdout")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 converted and verified, 1 an error whose message was printed, 130 interrupted."""
    options = vars(_parser().parse_args(arguments))
    progress = options.pop("progress")
    return run_command(
        lambda: summary(run_notebook(Settings(**options), progress)),
        f"Interrupted: nothing new is in {options['output_dir']}.",
    )


if __name__ == "__main__":
    sys.exit(main())
