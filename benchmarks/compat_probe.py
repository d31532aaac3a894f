"""Runs inside another TensorFlow's environment, as a script: loads one SavedModel and compares what it computes.

Imports TensorFlow and NumPy only. Usage: python compat_probe.py <SavedModel folder> <reference.npz>; the last line of
the output is a JSON object: figures by name, or the first line of the error that stopped one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np


def main(folder: str, reference: str) -> None:
    """Print one figure per part of the artefact's interface."""
    import tensorflow as tf

    # An archive of plain arrays: no object arrays, nothing that NumPy 1 and 2 would write differently.
    expected = dict(np.load(reference, allow_pickle=False))
    found = {"tensorflow": tf.__version__}
    model = None

    def load() -> float:
        nonlocal model
        model = tf.saved_model.load(folder)
        return 0.0

    found["load"] = _attempt(load)
    if model is not None:
        found["output"] = _attempt(lambda: _error(output(model, expected["inputs"]), expected["output"]))
        found["one image"] = _attempt(lambda: _error(output(model, expected["inputs"][:1]), expected["output"][:1]))
        found["gradients"] = _attempt(lambda: _gradient_error(model, expected))
        for name in sorted(set(model.signatures) & {"serving_image", "serving_image_bytes"}):
            result = _attempt(lambda name=name: _error(signature(model, name, expected), expected[name]))
            found[name] = result
    print(json.dumps(found))


def output(model: object, inputs: np.ndarray) -> np.ndarray:
    """The model's output for float32 NHWC inputs."""
    import tensorflow as tf

    return model(tf.constant(inputs)).numpy()


def gradients(model: object, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of the mean squared output by every trainable variable, by name."""
    import tensorflow as tf

    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(tf.constant(inputs), training=True) ** 2)
    found = tape.gradient(loss, variables)
    return {variable.name.removesuffix(":0"): array.numpy() for variable, array in zip(variables, found, strict=True)}


def signature(model: object, name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Logits or features of the serving signature `name`, for the reference's image."""
    import tensorflow as tf

    if name == "serving_image":
        results = model.signatures[name](images=tf.constant(arrays["images"]))
    else:
        encoded = [tf.io.encode_png(image).numpy() for image in arrays["images"]]
        results = model.signatures[name](image_bytes=tf.constant(encoded))
    return next(results[key] for key in ("logits", "features") if key in results).numpy()


def _attempt(part: Callable[[], float]) -> float | str:
    try:
        return part()
    except Exception as error:  # whatever an old TensorFlow raises is the result of this measurement
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = [
            line for line in lines if "eserialize" in line or "not supported" in line or "not registered" in line
        ]
        return (telling or lines or [type(error).__name__])[0][:200]


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise ValueError(f"shape {found.shape}, expected {expected.shape}")
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _gradient_error(model: object, expected: dict[str, np.ndarray]) -> float:
    """Relative L2 error of all gradients together: some are zero but for rounding, and have no relative error."""
    found = gradients(model, expected["inputs"])
    wanted = {name.removeprefix("gradient:"): array for name, array in expected.items() if ":" in name}
    if set(found) != set(wanted):
        raise ValueError(f"gradients by {sorted(set(found) ^ set(wanted))} on one side only")
    squares = sum(float(np.sum((found[name].astype(float) - wanted[name]) ** 2)) for name in wanted)
    return float(np.sqrt(squares / sum(float(np.sum(array.astype(float) ** 2)) for array in wanted.values())))


if __name__ == "__main__":
    main(*(str(Path(argument)) for argument in sys.argv[1:3]))
