"""The model card: Markdown made from the manifest, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from utils.artefact.card_head import Manifest, card_header, intended_use, licence, notice, overview, summary
from utils.families import FAMILIES
from utils.parity.judge import RATIO, Row
from utils.parity.report import Report
from utils.tables import markdown


def model_card(manifest: Manifest, repository: str = "") -> str:
    """The README.md of an artefact: its parts in order, without empty ones.

    repository: `owner/name` on the Hugging Face Hub, if the card is for there: it has a title in place of TF Hub's
    handle and tags, and tells how to fetch the model from that.
    """
    head = f"# {manifest['name']}\n\n{summary(manifest)}" if repository else card_header(manifest)
    before = (overview, intended_use, _interface, _preprocessing)
    after = (_provenance, _parity, _training, _versions, _licence)
    parts = [
        head,
        *(part(manifest) for part in before),
        _usage(manifest, repository),
        *(part(manifest) for part in after),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _interface(manifest: Manifest) -> str:
    sides = ("inputs", "outputs")
    rows = [(f"`{name}`", *(_tensors(given[side]) for side in sides)) for name, given in manifest["signatures"].items()]
    return (
        f"## Interface\n\n{markdown(('signature', *sides), rows)}\n\n"
        "B is any batch size. The loaded object can be called, `model(inputs, training=False)`, with the inputs of "
        "`serving_default`, and has `variables`, `trainable_variables` and `regularization_losses`."
    )


def _tensors(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"`{name}` {tensor['dtype']} {_shape(tensor['shape'])}" for name, tensor in tensors.items())


def _shape(sizes: Sequence[int | None] | None) -> str:
    if sizes is None:
        return "any shape"
    return _list("B" if index == 0 and size is None else size or "any" for index, size in enumerate(sizes))


def _list(values: Iterable[object]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _preprocessing(manifest: Manifest) -> str:
    settings = manifest["model"]["preprocessing"]
    crop, (mean, std) = settings["crop"], (_list(f"{value:g}" for value in settings[key]) for key in ("mean", "std"))
    compared = "\n\nThe image signatures do this themselves." if "serving_image" in manifest["signatures"] else ""
    if rows := manifest.get("preprocessing_parity", {}).get("rows"):
        worst, rmse = max(row["max_abs"] for row in rows), max(row["rmse"] for row in rows)
        compared += (
            " Compared with Pillow on photographs, no pixel is off by more "
            f"than {worst:.0f} of 255 levels; the root of the mean squared difference is {rmse:.1e} levels."
        )
    return (
        "## Preprocessing\n\n"
        f"`inputs` are RGB images, height before width: shorter side to {settings['resize']} pixels "
        f"({settings['interpolation']}, antialiased), centre crop of {crop} x {crop}, then "
        f"`(x - mean) / std` on values in [0, 255], with mean {mean} and std {std} for red, green and blue.{compared}"
    )


_IMAGES = """
files = [open(path, "rb").read() for path in ("cat.jpg", "rocket.png")]  # JPEG or PNG, of any sizes
{answer} = model.signatures["serving_image_bytes"](image_bytes=tf.constant(files))["{answer}"]
"""

# By format. Never in the card inside the tarball, whose bytes do not depend on what lies beside it.
_BESIDE = {
    "keras": """
The same model in Keras 3's own layers, on TensorFlow, JAX or PyTorch, as the environment variable `KERAS_BACKEND` says:

```python
import keras

model = keras.saving.load_model("{file}")  # {where}
{output} = model(inputs)
```
""",
    "onnx": """
ONNX Runtime; the axes are PyTorch's, and the file says what it is in its metadata:

```python
import onnxruntime

session = onnxruntime.InferenceSession("{name}.onnx")  # a file beside the tarball
({output},) = session.run(None, {{"inputs": inputs.transpose(0, 3, 1, 2)}})  # float32 [B, 3, height, width]
```
""",
}


_UNPACK = """Unpack it first; TensorFlow Hub also takes the tarball from a web server.

```sh
mkdir {name} && tar -xzf {name}.tar.gz -C {name}
```"""
_FETCH = """Fetch it first, with the command that `huggingface_hub` brings.

```sh
hf download {repository} --include "{name}/*" --local-dir .
```"""


def _usage(manifest: Manifest, repository: str) -> str:
    name, output = manifest["name"], next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    least = manifest.get("minimum_tensorflow")
    needs = f"It needs TensorFlow {least} or newer. " if least else ""
    answer = "probabilities" if output == "logits" else output
    get = (_FETCH if repository else _UNPACK).format(name=name, repository=repository)
    file, where = (
        (f"hf://{repository}", "the whole repository") if repository else (f"{name}.keras", "a file beside the tarball")
    )
    there = [key for key in _BESIDE if key in manifest and (key == "keras" or not repository)]
    beside = "".join(_BESIDE[key].format(name=name, output=output, file=file, where=where) for key in there)
    images = _IMAGES.format(answer=answer) if "serving_image_bytes" in manifest["signatures"] else ""
    return f"""## Use

{notice(manifest)}{needs}{get}

TensorFlow:

```python
import tensorflow as tf

model = tf.saved_model.load("{name}")
{output} = model(inputs)  # or model.signatures["serving_default"](inputs=inputs)["{output}"]
{images}```

TensorFlow Hub:

```python
import tensorflow_hub as hub

model = hub.load("{name}")  # or hub.load("https://<server>/{name}.tar.gz")
{output} = model(inputs)
```

Keras 3:

```python
import keras

layer = keras.layers.TFSMLayer("{name}", call_endpoint="serving_default")
{output} = layer(inputs)["{output}"]
```
{beside}
tf_keras, for fine-tuning too:

```python
import tensorflow_hub as hub
import tf_keras

model = tf_keras.Sequential([hub.KerasLayer("{name}", trainable=True)])
```"""


def _provenance(manifest: Manifest) -> str:
    source, model = manifest["source"], manifest["model"]
    rows = [("variant", f"`{manifest['variant']}`"), ("weights", f"**{manifest['weights']}**")]
    rows += [("url", f"<{source['url']}>")] if source.get("url") else []
    # A path tells about the machine that it is on; the file's name is enough.
    rows += [("file", f"`{PurePath(source['path']).name}`")] if source.get("path") else []
    rows += [("SHA-256", f"`{source['sha256']}`"), ("upstream", f"<{model['upstream_url']}>")]
    rows += [(key.replace("_", " "), f"`{value}`") for key, value in manifest.get("settings", {}).items()]
    rows += [("note", note) for note in manifest.get("notes", ())]
    return f"## Provenance\n\n{markdown(('', ''), rows)}"


def _parity(manifest: Manifest) -> str:
    parity = manifest["parity"]
    title, other = _reference(manifest)
    title = f"## {title}: {'passed' if parity['passed'] else 'FAILED'}\n\n"
    if "rows" not in parity:  # inside the artefact, whose bytes depend on no measurement
        rows = [
            (row["output"], row["input"], str(row["batch"] or ""), str(row["arrays"])) for row in parity["compared"]
        ]
        return (
            f"{title}This artefact, unpacked from its tarball, was compared with {other}{_rule(manifest)}. "
            "Each figure, with what was allowed, is in the manifest beside the tarball, "
            f"`{manifest['name']}.json`.\n\n{markdown(('output', 'input', 'batch', 'arrays'), rows)}"
        )
    cases: dict[tuple[str, str, int], list[Row]] = {}
    for row in Report.from_json(parity).rows:
        cases.setdefault(row.case, []).append(row)
    headings = ("output", "input", "batch", "error", "source's", "times", "max abs", "top-1", "top-5", "allowed")
    sentence = f"**{parity['sentence']}**\n\n" if parity.get("sentence") else ""
    measure = (
        f"The error is |error| / |truth| in the L2 norm, the truth being the source model in float64; beside it, the "
        f"same of {parity['framework']}'s own float32. The artefact may err {RATIO:g} times as much, a gradient also "
        "n half rounding steps, as it is a sum of n terms. Where there is no source's, the figure is held against a "
        "fixed tolerance. "
        if parity.get("framework")
        else "The error is relative, in the L2 norm. "
    )
    return (
        f"{title}{sentence}This artefact, unpacked from its tarball, against {other}. {measure}Top-1 is of images "
        "whose best class the reference tells apart by more than is allowed.\n\n"
        f"{markdown(headings, [_worst(rows) for rows in cases.values()])}"
    )


def _worst(rows: Sequence[Row]) -> tuple[str, ...]:
    """Cells of one case: the figures of that array, of perhaps many, which comes nearest to what is allowed."""
    worst = max(rows, key=lambda row: row.severity)
    label = worst.output if len(rows) == 1 else f"{worst.output}, worst of {len(rows)}"
    source = ("", "") if worst.source is None else (f"{worst.source:.1e}", f"{worst.ratio:.1f}")
    shares = [f"{share:.1%}" if share is not None else "" for share in (worst.top1, worst.top5)]
    figures = (f"{worst.figure:.1e}", *source, f"{worst.max_abs:.1e}", *shares, f"{worst.tolerance:.0e}")
    return label, worst.input, str(worst.batch or ""), *figures


def _reference(manifest: Manifest) -> tuple[str, str]:
    """The title of the section on parity, and what the artefact was compared with."""
    trained = manifest.get("training")
    title = f"Parity with the {'trained model' if trained else 'source framework'}"
    return title, "the model as it was trained, in memory" if trained else "the source model with the same checkpoint"


def _rule(manifest: Manifest) -> str:
    """What a converted artefact was held to; derived and fine-tuned ones are held to other measures."""
    if manifest.get("training") or manifest.get("storage"):
        return ""
    framework = FAMILIES[manifest["model"]["family"]].framework
    return (
        f": measured against float64, its outputs err at most {RATIO:g} times as much as {framework}'s own float32 does"
    )


def _training(manifest: Manifest) -> str:
    training = manifest.get("training")
    if not training:
        return ""
    rows = []
    for key, value in training.items():
        for inner, item in value.items() if isinstance(value, Mapping) else [(None, value)]:
            if key == "history":  # of the epoch whose weights were kept
                kept = training["best_epoch"]
                item = f"{item[kept - 1]:.4g} in epoch {kept} of {len(item)}, the one that was kept"
            rows.append((key if inner is None else f"{key}: {inner}", str(item)))
    return f"## Training\n\n{markdown(('', ''), rows)}"


def _versions(manifest: Manifest) -> str:
    rows = [(library, str(version)) for library, version in manifest["versions"].items()]
    return f"## Made with\n\n{markdown(('library', 'version'), rows)}"


def _licence(manifest: Manifest) -> str:
    model = manifest["model"]
    name, url = licence(manifest)
    what = {
        "official": "The source model and its weights are",
        "custom": "The weights are their maker's, and their licence is not known here; the source model's code is",
        "synthetic": f"The synthetic weights are under [{name}]({url}), as all that was made here; "
        "the source model's code is",
    }[manifest["weights"]]
    return (
        "## Licence and citation\n\n"
        f"{what} published under [{model['licence']}]({model['licence_url']}). "
        f"Work that uses this model should cite [{model['paper']}]({model['paper_url']}):\n\n"
        f"```bibtex\n{model['citation']}\n```"
    )
