"""The classifier that is published: its function, from the extractor and the trained arrays, and its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from utils.artefact.opening import Pretrained
from utils.export import saved_model
from utils.export.function import ExportedFunction
from utils.families import FAMILIES


def classifier(extractor: Pretrained, arrays: Mapping[str, np.ndarray]) -> ExportedFunction:
    """The extractor's function, loaded again, with the trained `arrays` for its variables, followed by the new head.

    Independent of the Keras that trained, and of the devices.
    """
    backbone = saved_model.load_model(extractor.folder)
    variables = {saved_model.name_of(variable): variable for variable in backbone.variables}
    for name, variable in variables.items():
        variable.assign(arrays[name])
    trainable = {saved_model.name_of(variable): variable for variable in backbone.trainable_variables}
    head = {name: tf.Variable(arrays[name], name=name) for name in FAMILIES[extractor.variant.family].head_keys}
    kernel, bias = head.values()

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return tf.nn.bias_add(tf.matmul(backbone(inputs, training=training), kernel), bias)

    return ExportedFunction(
        call=call,
        variables=variables | head,
        trainable=trainable | head,
        output="logits",
        units=bias.shape[0],
        input_shape=tuple(extractor.manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1:]),
        # A Mixer's gradient is one that its exporter defined; without this it would be lost on the way.
        save_options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def fine_tuned_name(extractor_name: str, dataset: str) -> str:
    """Of the artefact: `<variant>_classification[_plain]_<dataset>[_synthetic]`, from the extractor's own name.

    Of characters of `dataset` that an artefact's name may not have, only underscores are left. Appends "_images" if the
    name would end in a word that is reserved for the weights or their storage.
    """
    synthetic = "_synthetic" if extractor_name.endswith("_synthetic") else ""
    stem = re.sub("_fe(?=$|_plain$)", "_classification", extractor_name.removesuffix("_synthetic"))
    room = min(40, 110 - len(stem))  # a name of one's own may be long
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", dataset).strip("_")[:room] or "images"
    if plain.rpartition("_")[2] in ("synthetic", "float32", "float16", "int8"):
        plain += "_images"
    return f"{stem}_{plain}{synthetic}"
