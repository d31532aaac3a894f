"""Whether the files run in the programs that they are meant for: `python -m benchmarks.clients [TARBALL ...]`.

A TARBALL is a published classifier; without any, the tiny golden models are converted first, a ConvMixer and a Mixer in
plain operations, with ten class names. Each client has an environment of its own under the cache folder, and gets files
and arrays, nothing of this repository. Its logits are held to the source framework's, which travel in the artefact; its
names to those that Pillow's way of preparing photographs leads to. Leaves `clients` in assets/tables, as .md and .json.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import clients_probe, command, environments
from utils import serving_client
from utils.artefact.opening import Pretrained, open_model
from utils.conversion import convert
from utils.errors import ConversionError
from utils.images.labels import read_labels
from utils.images.photographs import levels, pillow_preprocess, sample_files, sample_photographs
from utils.parity.judge import OUTPUT_TOLERANCE
from utils.tables import markdown
from utils.verify.numbers import golden_of

LITERT, MEDIAPIPE = f"ai-edge-litert=={version('ai-edge-litert')}", "mediapipe==1.2.3"
# The converter's last release. What it imports holds TensorFlow at 2.19, and so Python at 3.12; newer releases of ydf
# want a newer protobuf than this TensorFlow takes, and tensorflow-hub an older setuptools.
TFJS = "4.22.0"
CONVERTER = (
    *(f"tensorflowjs=={TFJS}", "tensorflow==2.19.0", "tensorflow-decision-forests==1.12.0", "ydf==0.11.0"),
    "setuptools<81",
)
NODE = (f"@tensorflow/tfjs@{TFJS}", f"@tensorflow/tfjs-backend-wasm@{TFJS}")
FILES, PHOTOGRAPHS = sample_files(), sample_photographs()
PICTURES = ("serving_image", "serving_image_bytes")  # TF.js lacks operations of theirs, which is no error here
LACKING = "Unsupported Ops"  # what its converter says then

GOLDEN = command.ROOT / "tests" / "data" / "golden"
TINY = (("convmixer_tiny", "convmixer_tiny.timm.pth.tar", "xla"), ("mixer_tiny", "mixer_tiny.npz", "plain"))

Attempts = Mapping[str, Callable[[], str]]  # what is tried, and what says how it went


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
    names = scratch / "names.txt"
    names.write_text("".join(f"{label.name}\n" for label in read_labels("imagenet1k")[:10]), encoding="utf-8")
    settings = {"output_dir": str(scratch), "labels": str(names)}
    for tarball in tarballs or [
        convert(variant, checkpoint=str(GOLDEN / file), operations=operations, **settings).tarball
        for variant, file, operations in TINY
    ]:
        opened = open_model(str(tarball))
        (folder := scratch / f"of_{opened.name}").mkdir()  # TF.js's converter takes no blanks
        yield Artefact(opened, tarball, folder, server)


def litert(artefact: Artefact) -> Attempts:
    """LiteRT, without TensorFlow."""
    images = levels(golden_of(artefact.opened.folder).inputs, artefact.opened.preprocessing)
    return {
        "float32 .tflite": lambda: artefact.judged(_probe("litert", LITERT, artefact, images=images), OUTPUT_TOLERANCE)
    }


def mediapipe(artefact: Artefact) -> Attempts:
    """MediaPipe's ImageClassifier: photographs prepared as for the source framework, and as they are."""
    preprocessing, names = artefact.opened.preprocessing, artefact.opened.names

    def classified(pictures: Mapping[str, np.ndarray], part: float) -> list[list[Any]]:
        """[index, name, score] of every class, best first, of each picture's centre: `part` of its shorter side."""
        arrays = dict(pictures)
        for key, picture in pictures.items():
            sides = np.array(picture.shape[1::-1])
            reach = part * sides.min() / sides / 2
            arrays[f"{key}_square"] = np.concatenate([0.5 - reach, 0.5 + reach])
        found = list(_probe("mediapipe", MEDIAPIPE, artefact, **arrays).values())
        wrong = [name for rows in found for index, name, _ in rows if name != names[index]]
        if wrong and artefact.opened.labels:
            raise RuntimeError(f"class names are wrong: {wrong[:3]}")
        return found

    def prepared() -> str:
        ready = artefact.prepared()
        pictures = np.rint(levels(ready, preprocessing)).astype(np.uint8)
        found = classified({f"{i}": picture for i, picture in enumerate(pictures)}, 1)
        scores = [[score for _, _, score in sorted(rows)] for rows in found]
        return artefact.judged(scores, OUTPUT_TOLERANCE, artefact.logits(ready))

    def as_they_are() -> str:
        pictures = {key: np.asarray(image) for key, image in PHOTOGRAPHS.items()}
        return artefact.named([rows[0][0] for rows in classified(pictures, preprocessing.crop / preprocessing.resize)])

    return {"float32 .tflite, prepared": prepared, "float32 .tflite, as they are": as_they_are}


def saved_model_cli(artefact: Artefact) -> Attempts:
    """`saved_model_cli run`, of this environment's TensorFlow."""

    def run(signature: str, name: str, array: np.ndarray) -> np.ndarray:
        np.save(artefact.scratch / "inputs.npy", array)
        line = ["run", "--dir", artefact.opened.folder, "--tag_set", "serve", "--signature_def", signature, "--inputs"]
        line += [f"{name}={artefact.scratch / 'inputs.npy'}", "--outdir", artefact.scratch / signature, "--overwrite"]
        environments.output(Path(sys.executable).with_name("saved_model_cli"), *line)
        return np.load(artefact.scratch / signature / "logits.npy", allow_pickle=False)

    inputs, files = golden_of(artefact.opened.folder).inputs, np.array(list(FILES.values()))
    return {
        "serving_default": lambda: artefact.judged(run("serving_default", "inputs", inputs)),
        "serving_image_bytes": lambda: artefact.named(run("serving_image_bytes", "image_bytes", files).argmax(axis=1)),
    }


def tfjs(artefact: Artefact) -> Attempts:
    """The converter, then TF.js in Node, on two backends."""
    golden = golden_of(artefact.opened.folder)

    def converted(signature: str) -> Path:
        name = f"tfjs-{TFJS}-py{sys.version_info[0]}{sys.version_info[1]}"
        converter = environments.interpreter(name, CONVERTER).with_name("tensorflowjs_converter")
        path = artefact.scratch / f"tfjs_{signature}"
        options = ["--input_format=tf_saved_model", "--output_format=tfjs_graph_model", "--saved_model_tags=serve"]
        options += [f"--signature_name={signature}", artefact.opened.folder, path]
        # With oneDNN the converter would make one operation of a product and an exact GELU, which TF.js does not have.
        environments.output(converter, *options, TF_ENABLE_ONEDNN_OPTS=0)
        return path

    def run(backend: str) -> str:
        golden.inputs.tofile(inputs := artefact.scratch / "inputs.bin")
        modules = environments.node_modules(f"tfjs-{TFJS}-npm", NODE)
        script = [Path(__file__).with_name("clients_tfjs.cjs"), converted("serving_default"), backend, inputs]
        said = environments.output("node", *script, *golden.size, NODE_PATH=modules)
        return artefact.judged(json.loads(said.splitlines()[-1]))

    attempts = {f"serving_default, {backend}": lambda backend=backend: run(backend) for backend in ("cpu", "wasm")}
    return attempts | {name: lambda name=name: f"yes, converted: {converted(name).name}" for name in PICTURES}


def tensorflow_serving(artefact: Artefact) -> Attempts:
    """A server that `--serving` names and that serves the artefact under its name, through `utils.serving_client`."""
    server, name, inputs = artefact.server, artefact.opened.name, golden_of(artefact.opened.folder).inputs

    def photographs() -> str:
        answers = serving_client.predict(server, name, list(FILES.values()))
        return artefact.named([np.argmax(answer["probabilities"]) for answer in answers])

    return {
        "serving_default": lambda: artefact.judged(
            serving_client.post(server, name, "serving_default", inputs.tolist())
        ),
        "serving_image_bytes": photographs,
    }


CLIENTS = {"LiteRT": litert, "MediaPipe": mediapipe, "saved_model_cli": saved_model_cli, "TF.js": tfjs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the table, print it. Exit status 1 when something that should run does not, or is off."""
    parser = command.parser("clients", __doc__)
    parser.add_argument("tarballs", nargs="*", type=Path, help="published classifiers (tiny ones are converted)")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS), help="(all)")
    parser.add_argument(
        "--serving", metavar="ADDRESS", help="ask TensorFlow Serving alone, such as http://localhost:8501"
    )
    options = parser.parse_args(arguments)
    clients = {name: CLIENTS[name] for name in options.clients}
    if options.serving:
        clients = {"TensorFlow Serving": tensorflow_serving}
    samples = []
    with tempfile.TemporaryDirectory() as scratch:
        for artefact in artefacts(options.tarballs, Path(scratch), options.serving):
            for client, attempts in clients.items():
                for what, attempt in attempts(artefact).items():
                    sample = {"client": client, "artefact": artefact.opened.name, "what": what, "runs": _tried(attempt)}
                    samples.append(sample)
                    print(", ".join(sample.values()), flush=True)
    notes = command.notes("clients", arguments, ("tensorflow", "ai-edge-litert", "numpy")) | {
        "clients": ", ".join((LITERT, MEDIAPIPE, *CONVERTER, *NODE)),
        "weights": "random: those of the tiny golden checkpoints, unless tarballs were named",
        "method": "relative L2 error of the logits on the golden inputs to the source framework's, and of MediaPipe's "
        "on prepared photographs to TensorFlow's; photographs as they are: whether the best class is TensorFlow's, for "
        f"what Pillow prepares ({', '.join(FILES)}). MediaPipe gets their centre and scales it its own way",
    }
    command.leave(options, "clients", "Clients that run the files", notes, table, samples)
    return int(bool(failures(samples)))


def table(samples: Sequence[Mapping[str, str]]) -> str:
    """Markdown: a row for each thing that a client was given."""
    columns = ("client", "artefact", "what", "runs")
    return markdown(columns, [[sample[key] for key in columns] for sample in samples])


def failures(samples: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """What does not run, or is off, and should not."""
    known = [s for s in samples if s["client"] == "TF.js" and s["what"] in PICTURES and LACKING in s["runs"]]
    return [sample for sample in samples if not sample["runs"].startswith("yes") and sample not in known]


def _tried(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except (RuntimeError, OSError, ConversionError, serving_client.ServingError) as error:
        return f"no: {error}"  # in the client's words


def _probe(client: str, requirement: str, artefact: Artefact, **arrays: np.ndarray) -> Any:
    """What `clients_probe` prints in an environment with that package alone."""
    name = f"{requirement.replace('==', '-')}-py{sys.version_info[0]}{sys.version_info[1]}"
    np.savez(path := artefact.scratch / "arrays.npz", **arrays)
    python = environments.interpreter(name, [requirement])
    said = environments.output(python, Path(clients_probe.__file__), client, artefact.lite, path)
    return json.loads(said.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
