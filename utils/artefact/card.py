"""The model card, Markdown made from the manifest and from nothing else; also for the Hugging Face Hub.

The form is that of https://www.tensorflow.org/hub/writing_documentation: the handle in the first line, a sentence in
the second, then comment tags, which TF Hub and Kaggle Models read, one a line, up to the first section. Values of
`task`, `dataset`, `network-architecture` and `license` are from the lists in
https://github.com/tensorflow/tfhub.dev/tree/master/tags. A card on the Hugging Face Hub begins with YAML instead:
https://huggingface.co/docs/hub/model-cards#model-card-metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from utils.artefact.manifest import PUBLISHER, REPOSITORY, licence
from utils.families import FAMILIES
from utils.families.variants import get_variant
from utils.parity.judge import RATIO, Row
from utils.parity.report import Report
from utils.tables import markdown

Manifest = Mapping[str, Any]

SYNTHETIC = "random numbers; the model recognises nothing, and its outputs mean nothing"

_TASKS = {"classification": "image-classification", "fe": "image-feature-vector"}
_HUB_TASKS = {"classification": "image-classification", "fe": "image-feature-extraction"}
_DATASETS = {"imagenet1k": "imagenet-ilsvrc-2012-cls", "imagenet21k": "imagenet-21k"}
_HUB_DATASETS = {"imagenet1k": "imagenet-1k", "imagenet21k": "imagenet-21k"}
_COLAB = REPOSITORY.replace("github.com", "colab.research.google.com/github") + "/blob/main/"
_NOTEBOOKS = {"classification": "classification.ipynb", "fe": "fine-tune.ipynb"}


def model_card(manifest: Manifest, repository: str = "") -> str:
    """The README.md of an artefact: its parts in order, without empty ones.

    repository: `owner/name` on the Hugging Face Hub, if the card is for there: it has a title in place of TF Hub's
    handle and tags, and tells how to fetch the model from that.
    """
    parts = (
        f"# {manifest['name']}\n\n{_summary(manifest)}" if repository else _header(manifest),
        _overview(manifest),
        _intended_use(manifest),
        _interface(manifest),
        _preprocessing(manifest),
        _usage(manifest, repository),
        _provenance(manifest),
        _parity(manifest),
        _training(manifest),
        "## Made with\n\n"
        + markdown(("library", "version"), [(key, str(v)) for key, v in manifest["versions"].items()]),
        _licence(manifest),
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def hub_card(manifest: Manifest, repository: str) -> str:
    """README.md of a repository on the Hugging Face Hub, `owner/name`."""
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{hub_header(manifest)}\n---\n\n{model_card(manifest, repository)}"))


def hub_header(manifest: Manifest) -> str:
    """The YAML. Of weights that are not official it names neither data nor origin. ParameterError as `get_variant`."""
    from huggingface_hub import ModelCardData

    model, mirrors, labels = manifest["model"], [], None
    if manifest["weights"] == "official" and not manifest.get("training"):
        mirrors = [source.repository for source in get_variant(manifest["variant"]).sources if source.repository]
        labels = model["labels"]
    return ModelCardData(
        license=licence(manifest)[0].lower(),
        library_name="keras" if "keras" in manifest else "tensorflow",
        pipeline_tag=_HUB_TASKS[manifest["head"]],
        datasets=[_HUB_DATASETS[labels]] if labels else None,
        base_model=mirrors[0] if mirrors else None,
        # Of the four relations that the Hub knows, that of conversions. Without it, the Hub takes it for fine-tuned.
        base_model_relation="quantized" if mirrors else None,
        tags=["tensorflow", "saved-model", FAMILIES[model["family"]].title.lower()],
    ).to_yaml()


def _header(manifest: Manifest) -> str:
    """Handle, sentence and tags; `language` is left out: it is for models of text."""
    model, official, tuned = manifest["model"], manifest["weights"] == "official", manifest.get("training")
    # Only official weights are released; other artefacts lie beside their card.
    folder = f"{REPOSITORY}/releases/latest/download/" if official and not tuned else ""
    datasets = [_DATASETS[model["labels"]]] if official and model["labels"] else []
    tags = [
        ("asset-path", f"{folder}{manifest['name']}.tar.gz"),
        ("task", _TASKS[manifest["head"]]),
        ("network-architecture", FAMILIES[model["family"]].hub_architecture),
        *(("dataset", dataset) for dataset in (*datasets, *(["other"] if tuned else []))),  # what it was tuned on
        ("fine-tunable", "true" if _fine_tunable(manifest) else "false"),
        ("format", "saved_model_2"),
        ("license", licence(manifest)[0].lower()),
        ("colab", _COLAB + _NOTEBOOKS[manifest["head"]]),
    ]
    lines = "\n".join(f"<!-- {key}: {value} -->" for key, value in tags)
    return f"# Module {PUBLISHER}/{manifest['name']}/1\n{_summary(manifest)}\n\n{lines}"


def _fine_tunable(manifest: Manifest) -> bool:
    """Whether gradients by the trainable variables were compared with the source framework's, and passed.

    No source framework has a fine-tuned model.
    """
    parity = manifest["parity"]  # inside the artefact, whose bytes depend on no measurement, without rows
    rows = parity.get("rows", parity.get("compared"))
    passed = [row.get("passed", parity["passed"]) for row in rows if row["output"] == "gradients"]
    return bool(passed) and all(passed) and not manifest.get("training")


def _summary(manifest: Manifest) -> str:
    """What it is, in one sentence."""
    model, synthetic = manifest["model"], manifest["weights"] == "synthetic"
    head = {"classification": "image classifier", "fe": "image feature extractor"}[manifest["head"]]
    weights = {
        "official": f"with its authors' weights, trained on: {model['trained_on'].rstrip('.')}",
        "custom": "with the weights of a local checkpoint file",
        "synthetic": "with random weights, which recognise nothing",
    }[manifest["weights"]]
    if manifest.get("training"):
        weights = "fine-tuned from random weights" if synthetic else f"{weights}; fine-tuned"
    loud = "SYNTHETIC WEIGHTS, for tests only: " if synthetic else ""
    return f"{loud}{FAMILIES[model['family']].title} {head} {manifest['variant']}, {weights}."


def _overview(manifest: Manifest) -> str:
    """What the model is, whose weights it has, and whether it can be fine-tuned."""
    model, training = manifest["model"], manifest.get("training")
    lines = [
        f"## Overview\n\n{_notice(manifest)}{_summary(manifest)} It is a TensorFlow SavedModel of "
        f"{manifest['parameters']:,} parameters.",
    ]
    if not training and manifest["weights"] == "official" and manifest["head"] == "classification" and model["top1"]:
        lines.append(f"Reported ImageNet-1k top-1 accuracy: {model['top1']} % ({model['top1_source']}).")
    if _fine_tunable(manifest):
        lines.append("It can be fine-tuned: gradients by all trainable variables agree with the source framework's.")
    else:
        lines.append("Its gradients were not compared with the source framework's, so it is not called fine-tunable.")
    return "\n".join(lines)


def _notice(manifest: Manifest) -> str:
    """What each section that could mislead begins with, if the weights are synthetic; else nothing."""
    if manifest["weights"] != "synthetic":
        return ""
    if manifest.get("training"):
        known = "all it knows is from the training below"
        return f"> **From SYNTHETIC WEIGHTS:** fine-tuned from random numbers; {known}.\n\n"
    return f"> **SYNTHETIC WEIGHTS:** {SYNTHETIC}.\n\n"


def _intended_use(manifest: Manifest) -> str:
    """What the model is for, and what is not known about it."""
    title = "## Intended use and limits\n\n"
    if manifest["weights"] == "synthetic" and not manifest.get("training"):
        return (
            f"{title}To try the conversion, the file format and the code around it, and **nothing else**: the weights "
            f"are synthetic, {SYNTHETIC}. Do not publish it as a model."
        )
    use = {
        "classification": "To classify photographs into the classes that it was trained on, one for each picture. "
        "It answers with one of them whatever the picture shows; a high probability is no proof of being right.",
        "fe": "To turn photographs into features: for transfer learning, search by similarity, or clustering.",
    }[manifest["head"]]
    source, unknown = "its source computes", "accuracy, robustness and fairness were not measured here"
    if manifest.get("training"):
        source = "the trained model computed"
        unknown = "how often it was right in validation stands under Training, and nothing else was measured here"
    return (
        f"{title}{use}\n\nParity says that the TensorFlow model computes what {source}, not how good that "
        f"is: {unknown}. Photographs from the web, such as ImageNet's, "
        "have the gaps and biases of their times and places, and so has what was trained on them: decisions about "
        "people need an evaluation of their own."
    )


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

{_notice(manifest)}{needs}{get}

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
    parity, training = manifest["parity"], manifest.get("training")
    title = f"## Parity with the {'trained model' if training else 'source framework'}: passed\n\n"
    other = "the model as it was trained, in memory" if training else "the source model with the same checkpoint"
    compared = f"{title}This artefact, unpacked from its tarball, was compared with {other}"
    if "rows" not in parity:  # inside the artefact, whose bytes depend on no measurement
        if not training and not manifest.get("storage"):  # others are held to other measures
            framework = FAMILIES[manifest["model"]["family"]].framework
            compared += (
                f": measured against float64, its outputs err at most {RATIO:g} times as much as {framework}'s own "
                "float32 does"
            )
        headings = ("output", "input", "batch", "arrays")
        cases = [[str(row[key] or "") for key in headings] for row in parity["compared"]]
        return (
            f"{compared}. Each figure, with what was allowed, is in the manifest beside the tarball, "
            f"`{manifest['name']}.json`.\n\n{markdown(headings, cases)}"
        )
    by_case: dict[tuple[str, str, int], list[Row]] = {}
    for row in Report.from_json(parity).rows:
        by_case.setdefault(row.case, []).append(row)
    headings = ("output", "input", "batch", "error", "source's", "times", "max abs", "top-1", "top-5", "allowed")
    sentence = f" **{parity['sentence']}**" if parity.get("sentence") else ""
    measure = (
        "The error is |error| / |truth| in the L2 norm, the truth being the source model in float64; beside it, the "
        f"same of {parity['framework']}'s own float32. The artefact may err {RATIO:g} times as much, a gradient also "
        "n half rounding steps, as it is a sum of n terms. Where there is no source's, the figure is held against a "
        "fixed tolerance. "
        if parity.get("framework")
        else "The error is relative, in the L2 norm. "
    )
    return (
        f"{compared}.{sentence} {measure}Top-1 is of images whose best class the reference tells apart by more than is "
        f"allowed.\n\n{markdown(headings, [_worst(rows) for rows in by_case.values()])}"
    )


def _worst(rows: Sequence[Row]) -> tuple[str, ...]:
    """Cells of one case: the figures of that array, of perhaps many, which comes nearest to what is allowed."""
    worst = max(rows, key=lambda row: row.severity)
    label = worst.output if len(rows) == 1 else f"{worst.output}, worst of {len(rows)}"
    source = ("", "") if worst.source is None else (f"{worst.source:.1e}", f"{worst.ratio:.1f}")
    shares = [f"{share:.1%}" if share is not None else "" for share in (worst.top1, worst.top5)]
    figures = (f"{worst.figure:.1e}", *source, f"{worst.max_abs:.1e}", *shares, f"{worst.tolerance:.0e}")
    return label, worst.input, str(worst.batch or ""), *figures


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
