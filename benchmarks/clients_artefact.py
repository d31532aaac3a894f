"""The classifiers that `benchmarks.clients` hands to clients, and how what these make of them is judged."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import command
from utils.artefact.opening import Pretrained, open_model
from utils.images.labels import read_labels
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.verify.numbers import golden_of

_GOLDEN = command.ROOT / "tests" / "data" / "golden"
_TINY = {
    "convmixer_tiny": (_GOLDEN / "convmixer_tiny.timm.pth.tar", "xla"),
    "mixer_tiny": (_GOLDEN / "mixer_tiny.npz", "plain"),
}
PHOTOGRAPHS = sample_photographs()


@dataclass(frozen=True)
class Artefact:
    """A classifier, unpacked. scratch: where clients' files go. server: of TensorFlow Serving's, its address."""

    opened: Pretrained
    tarball: Path
    scratch: Path
    server: str | None = None

    @functools.cached_property
    def lite(self) -> Path:
        """Its float32 TFLite file."""
        from utils.smaller.command import make_smaller

        return make_smaller(self.tarball, "tflite-float32", self.scratch)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Of this environment's TensorFlow, for normalised inputs."""
        import tensorflow as tf

        model = tf.saved_model.load(str(self.opened.folder))
        return model.signatures["serving_default"](inputs=inputs)["logits"].numpy()

    def prepared(self) -> np.ndarray:
        """The photographs as the models' authors prepare them, normalised: float32 [B, H, W, 3]."""
        return np.stack([pillow_preprocess(image, self.opened.preprocessing) for image in PHOTOGRAPHS.values()])

    def judged(self, logits: Any, least: float = 0, expected: np.ndarray | None = None) -> str:
        """Their relative L2 error, by default to the golden ones, and whether it is within the artefact's tolerance.

        least: what is allowed in any case, as a TFLite file is.
        """
        expected = golden_of(self.opened.folder).outputs if expected is None else expected
        bound = max(least, self.opened.manifest["parity"]["tolerance"]["logits"])
        error = np.linalg.norm(np.asarray(logits) - expected) / np.linalg.norm(expected)
        return f"{'yes' if error <= bound else 'no'}, logits {error:.1e} off (at most {bound:.1e})"

    def named(self, classes: Sequence[int]) -> str:
        """Whether these are the best classes of the photographs."""
        right = int(np.sum(np.asarray(classes) == self.logits(self.prepared()).argmax(axis=1)))
        return f"{'yes' if right == len(classes) else 'no'}, {right} of {len(classes)} photographs named alike"


def artefacts(tarballs: Sequence[Path], scratch: Path, server: str | None = None) -> Iterator[Artefact]:
    """Of each tarball; of the tiny golden checkpoints, converted with the names of ImageNet's first ten classes."""
    from utils.convert import run_notebook
    from utils.settings import Settings

    if not tarballs:
        names = scratch / "names.txt"
        names.write_text("".join(f"{label.name}\n" for label in read_labels("imagenet1k")[:10]), encoding="utf-8")
    common = {"output_dir": str(scratch), "labels": str(scratch / "names.txt")}
    for tarball in tarballs or [
        run_notebook(Settings(variant, checkpoint=str(path), operations=operations, **common))[1]
        for variant, (path, operations) in _TINY.items()
    ]:
        opened = open_model(str(tarball))
        (folder := scratch / f"of_{opened.name}").mkdir()  # TF.js's converter takes no blanks
        yield Artefact(opened, tarball, folder, server)
