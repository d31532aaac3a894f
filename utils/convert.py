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
from utils.families.variants import BESIDE, HEADS, OPERATIONS, VARIANTS, Variant, artefact_name, get_variant
from utils.notebook import execution
from utils.notebook.parameters import KEYWORDS, check_conversion
from utils.parity.report import Report

ROOT = Path(__file__).resolve().parent.parent


def convert(
    variant: str,
    head: str,
    checkpoint: str,
    output_dir: str | Path,
    image_size: int | None = None,
    seed: int | None = None,
    operations: str | None = None,
    progress: str = "bar",
    labels: str | None = None,
    use_ema: bool = False,
    formats: str | None = None,
) -> list[Path]:
    """Runs the variant's notebook; returns SavedModel folder, tarball, manifest and executed notebook.

    `image_size` None is the variant's own; `seed` and `operations` None are the notebook's defaults; `progress` is
    that of `execution.executed`; `labels` (a file of class names), `use_ema` and `formats` are those of
    `check_conversion`. Raises ConversionError for whatever stops the notebook, and KeyboardInterrupt where it was
    interrupted.
    """
    row = get_variant(variant)
    size = row.image_size if image_size is None else image_size
    kind = operations or "xla"
    others = labels or "", use_ema, formats or "saved_model"
    check_conversion(row.family, variant, head, checkpoint, size, str(output_dir), seed or 0, kind, *others)
    folder = Path(output_dir).expanduser().absolute()
    parameters = {
        "variant": variant,
        "head": head,
        "checkpoint": checkpoint,
        "image_size": size,
        "output_dir": str(folder),
        "seed": seed,
        "operations": operations,
        "labels": str(Path(labels).expanduser().absolute()) if labels else None,
        "use_ema": use_ema or None,
        "formats": formats,
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    notebook = ROOT / FAMILIES[row.family].notebook
    execution.require_parameters(notebook, parameters)
    parameters["checkpoint"] = chosen = choose_checkpoint(row, checkpoint, seed or 0)  # may download

    weights = chosen if chosen in KEYWORDS else "custom"
    name = artefact_name(variant, head, weights, kind)
    made = [folder / name, folder / f"{name}.tar.gz", folder / f"{name}.json", folder / f"{name}.ipynb"]
    with execution.executed(notebook, parameters, progress) as written:
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
    parser.add_argument("--seed", type=int, help="of synthetic weights and of the inputs compared")
    parser.add_argument("--operations", help=f"for the Mixer, one of: {', '.join(OPERATIONS)}")
    parser.add_argument("--labels", help="a UTF-8 file with one class name per line, for a classifier of one's own")
    parser.add_argument("--use-ema", action="store_true", help="ConvMixer: the moving average in a trainer's file")
    parser.add_argument("--formats", help='"saved_model, keras, onnx" for files of Keras 3 and, from a ConvMixer, ONNX')
    parser.add_argument("--progress", default="bar", choices=("bar", "lines"), help="lines: `cell 3 of 25` on stdout")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 converted and verified, 1 an error whose message was printed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    return run_command(
        lambda: summary(convert(**vars(options))), f"Interrupted: nothing new is in {options.output_dir}."
    )


if __name__ == "__main__":
    sys.exit(main())
