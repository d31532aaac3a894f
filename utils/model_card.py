"""The model card: Markdown made from the manifest, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

Manifest = Mapping[str, Any]


def model_card(manifest: Manifest) -> str:
    """The README.md of an artefact: the sections in `SECTIONS`, in that order, without empty ones."""
    return "\n\n".join(filter(None, (section(manifest) for section in SECTIONS))) + "\n"


def _title(manifest: Manifest) -> str:
    lines = [f"# {manifest['name']}"]
    if manifest["weights"] == "synthetic":
        lines += [
            "",
            "> **SYNTHETIC WEIGHTS.** The numbers in this model are random: it recognises nothing, and",
            "> its outputs mean nothing. It shows that the conversion works. Use it for nothing else.",
        ]
    return "\n".join(lines)


def _what_it_is(manifest: Manifest) -> str:
    model, training = manifest["model"], manifest.get("training")
    family = {"convmixer": "ConvMixer", "mixer": "MLP-Mixer"}.get(model["family"], model["family"])
    head = "classifier (logits)" if manifest["head"] == "classification" else "feature extractor (pooled features)"
    weights = {
        "official": f"official weights, trained on: {model['trained_on']}",
        "custom": "weights of a local checkpoint file",
        "synthetic": "synthetic (random) weights",
    }[manifest["weights"]]
    lines = [
        f"{family} `{manifest['variant']}` as a TensorFlow SavedModel: {head}, {manifest['parameters']:,} parameters."
    ]
    lines.append(f"It has {weights}.")
    if training:
        lines.append("It was fine-tuned afterwards: see Training.")
    elif manifest["weights"] == "official" and manifest["head"] == "classification" and model["top1"] is not None:
        lines.append(f"Reported ImageNet-1k top-1 accuracy: {model['top1']} % ({model['top1_source']}).")
    return "\n".join(lines)


def _interface(manifest: Manifest) -> str:
    rows = []
    for name, signature in manifest["signatures"].items():
        inputs, outputs = (_tensors(signature[side]) for side in ("inputs", "outputs"))
        rows.append((f"`{name}`", inputs, outputs))
    rest = (
        "The loaded object can be called, `model(inputs, training=False)`, with the inputs of "
        "`serving_default`, and has `variables`, `trainable_variables` and `regularization_losses`."
    )
    return f"## Interface\n\n{_table(('signature', 'inputs', 'outputs'), rows)}\n\nB is any batch size. {rest}"


def _tensors(tensors: Mapping[str, Mapping[str, Any]]) -> str:
    def shape(sizes: Sequence[int | None] | None) -> str:
        if sizes is None:
            return "any shape"
        named = ["any" if size is None else str(size) for size in sizes]
        return "[" + ", ".join(["B" if sizes and sizes[0] is None else named[0], *named[1:]] if sizes else []) + "]"

    return ", ".join(f"`{name}` {tensor['dtype']} {shape(tensor['shape'])}" for name, tensor in tensors.items())


def _preprocessing(manifest: Manifest) -> str:
    settings = manifest["model"]["preprocessing"]
    crop, mean, std = settings["crop"], _list(settings["mean"]), _list(settings["std"])
    compared = ""
    if rows := manifest.get("preprocessing_parity", {}).get("rows"):
        worst, rmse = max(row["max_abs"] for row in rows), max(row["rmse"] for row in rows)
        compared = (
            "\n\nThe image signatures do this themselves. Compared with Pillow on photographs, no pixel is off by more "
            f"than {worst:.0f} of 255 levels; the root of the mean squared difference is {rmse:.1e} levels."
        )
    return (
        "## Preprocessing\n\n"
        f"`inputs` are RGB images, height before width: shorter side to {settings['resize']} pixels "
        f"({settings['interpolation']}, antialiased), centre crop of {crop} x {crop}, then "
        f"`(x - mean) / std` on values in [0, 255], with mean {mean} and std {std} for red, green and blue.{compared}"
    )


def _usage(manifest: Manifest) -> str:
    name, output = manifest["name"], next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    return f"""## Use

Unpack `{name}.tar.gz` into a folder `{name}` first. TensorFlow Hub also takes it from a web server.

TensorFlow:

```python
import tensorflow as tf

model = tf.saved_model.load("{name}")
{output} = model(inputs)  # or model.signatures["serving_default"](inputs=inputs)["{output}"]
```

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
    return f"## Provenance\n\n{_table(('', ''), rows)}"


def _parity(manifest: Manifest) -> str:
    parity = manifest["parity"]
    verdict = "passed" if parity["passed"] else "FAILED"
    cases: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in parity["rows"]:
        cases.setdefault((row["output"], row["input"], row["batch"]), []).append(row)
    rows = []
    for (output, name, batch), group in cases.items():
        label = output if len(group) == 1 else f"{output}, worst of {len(group)}"
        worst = max(group, key=lambda row: _figure(row) / row["tolerance"])
        shares = [f"{row:.1%}" if row is not None else "" for row in (worst["top1"], worst["top5"])]
        figures = (f"{_figure(worst):.1e}", f"{worst['max_abs']:.1e}", f"{worst['rmse']:.1e}", *shares)
        rows.append((label, name, str(batch or ""), *figures, f"{worst['tolerance']:.0e}"))
    headings = (
        "output",
        "input",
        "batch",
        "relative error",
        "max abs",
        "RMSE",
        "top-1",
        "top-5",
        "tolerance",
    )
    return (
        f"## Parity with the source framework: {verdict}\n\n"
        "This artefact, unpacked from its tarball, against the source model with the same checkpoint, in "
        "float32. Relative to max(1, max |reference|), for gradients to the reference's L2 norm; top-1 where "
        "the reference's margin exceeds the tolerance.\n\n"
        f"{_table(headings, rows)}"
    )


def _figure(row: Mapping[str, Any]) -> float:
    return row["relative"] if row.get("relative_l2") is None else row["relative_l2"]


def _training(manifest: Manifest) -> str:
    training = manifest.get("training")
    if not training:
        return ""
    rows = []
    for key, value in training.items():
        for inner, item in value.items() if isinstance(value, Mapping) else [(None, value)]:
            last = item[-1] if isinstance(item, list) and item else item
            shown = (
                f"{last:.4g} after {len(item)} epochs" if isinstance(item, list) and isinstance(last, float) else last
            )
            rows.append((key if inner is None else f"{key}: {inner}", str(shown)))
    return f"## Training\n\n{_table(('', ''), rows)}"


def _versions(manifest: Manifest) -> str:
    rows = [(library, str(version)) for library, version in manifest["versions"].items()]
    return f"## Made with\n\n{_table(('library', 'version'), rows)}"


def _licence(manifest: Manifest) -> str:
    model = manifest["model"]
    what = {
        "official": "The source model and its weights are",
        "custom": "The weights are their maker's; the source model's code is",
        "synthetic": "The source model's code is",
    }[manifest["weights"]]
    return (
        "## Licence and citation\n\n"
        f"{what} published under [{model['licence']}]({model['licence_url']}). "
        f"Paper: [{model['paper']}]({model['paper_url']}).\n\n"
        f"```bibtex\n{model['citation']}\n```"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A bar or a line break inside a cell would end it.
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (headings, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(headings), *lines[1:]])


def _list(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"


SECTIONS: tuple[Callable[[Manifest], str], ...] = (
    _title,
    _what_it_is,
    _interface,
    _preprocessing,
    _usage,
    _provenance,
    _parity,
    _training,
    _versions,
    _licence,
)
