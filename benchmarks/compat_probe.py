"""What an artefact computes by each part of its interface. Runs as a script in another TensorFlow's environment.

Imports TensorFlow and NumPy only. Usage: python compat_probe.py <SavedModel folder> <inputs.npz> <results.npz>; the
results are an array for each part, or the first line of the error that stopped it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

PARTS = ("output", "one image", "gradients", "serving_image", "serving_image_bytes")


def results(folder: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By part; an array of one text where it failed, which "load" can be, too.

    arrays: `inputs`, float32 as the model takes them, and `images`, uint8. "gradients" are those of the mean squared
    output by every trainable variable, as one array in the order of the variables' names.
    """
    import tensorflow as tf

    try:
        model = tf.saved_model.load(folder)
    except Exception as error:
        return {"load": _reason(error)}
    inputs = tf.constant(arrays["inputs"])

    def gradients() -> np.ndarray:
        variables = sorted(model.trainable_variables, key=lambda variable: variable.name)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(inputs, training=True) ** 2)
        return np.concatenate([gradient.numpy().ravel() for gradient in tape.gradient(loss, variables)])

    def answer(signature: str, **images: tf.Tensor) -> np.ndarray:
        found = model.signatures[signature](**images)
        return next(found[key] for key in ("logits", "features") if key in found).numpy()

    encoded = [tf.io.encode_png(image).numpy() for image in arrays["images"]]
    parts: dict[str, Callable[[], np.ndarray]] = {
        "output": lambda: model(inputs).numpy(),
        "one image": lambda: model(inputs[:1]).numpy(),
        "gradients": gradients,
        "serving_image": lambda: answer("serving_image", images=tf.constant(arrays["images"])),
        "serving_image_bytes": lambda: answer("serving_image_bytes", image_bytes=tf.constant(encoded)),
    }
    return {name: _attempt(parts[name]) for name in PARTS if name in model.signatures or "serving" not in name}


def _attempt(part: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return part()
    except Exception as error:  # whatever an old TensorFlow raises is the result of this measurement
        return _reason(error)


def _reason(error: Exception) -> np.ndarray:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "eserialize" in line or "not supported" in line or "not registered" in line]
    return np.array((telling or lines or [type(error).__name__])[0][:200])


if __name__ == "__main__":
    folder, given, written = sys.argv[1:4]
    with np.load(given, allow_pickle=False) as file:
        np.savez(written, **results(folder, dict(file)))
