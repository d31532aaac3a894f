"""Runs inside a client's environment, as a script: one .tflite file under LiteRT or MediaPipe, without TensorFlow.

Usage: python clients_probe.py litert|mediapipe MODEL ARRAYS.npz. The last line of the output is JSON: of LiteRT the
outputs for `images`, float32 levels [B, H, W, 3]; of MediaPipe, for each `picture_…`, uint8 [H, W, 3], cut to its
`picture_…_square` (left, top, right, bottom: parts of its sides), [index, name, score] of each class, best first.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np


def litert(model: str, arrays: dict[str, np.ndarray]) -> list[Any]:
    """The logits of all images."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model).get_signature_runner("serving_default")
    return runner(images=arrays["images"])["logits"].tolist()


def mediapipe(model: str, arrays: dict[str, np.ndarray]) -> dict[str, list[Any]]:
    """The classes of each picture."""
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision
    from mediapipe.tasks.python.components.containers.rect import RectF

    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model))
    found = {}
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for key in (key for key in arrays if f"{key}_square" in arrays):
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(arrays[key]))
            left, top, right, bottom = map(float, arrays[f"{key}_square"])
            square = RectF(left=left, top=top, right=right, bottom=bottom)
            (head,) = classifier.classify(image, vision.ImageProcessingOptions(square)).classifications
            found[key] = [[each.index, each.category_name, each.score] for each in head.categories]
    return found


if __name__ == "__main__":
    client, model, arrays = sys.argv[1:4]
    with np.load(arrays, allow_pickle=False) as file:
        print(json.dumps({"litert": litert, "mediapipe": mediapipe}[client](model, dict(file))))
