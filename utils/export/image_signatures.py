"""Signatures that take photographs as they are: preprocessing, then the model, in one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from utils.families.variants import Preprocessing
from utils.images.preprocessing import decode, preprocess, preprocess_bytes


def image_signatures(
    preprocessing: Preprocessing,
) -> Callable[[Callable], Mapping[str, tf.types.experimental.ConcreteFunction]]:
    """What `saved_model.save_model` is given as `image_signatures`, for a model that was trained on `preprocessing`.

    serving_image: `images` uint8 [B, H, W, 3], any size. serving_image_bytes: `image_bytes` string [B], JPEG or PNG,
    each of its own size. Both give what `serving_default` gives (float32 [B, units]), and `probabilities` where
    that is logits.
    """

    def signatures(serving: Callable) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
        def predict(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = dict(serving(inputs=inputs))
            if "logits" in outputs:
                outputs["probabilities"] = tf.nn.softmax(outputs["logits"])
            return outputs

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
        def serving_image(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return predict(preprocess(images, preprocessing))

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serving_image_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return predict(preprocess_bytes(image_bytes, preprocessing))

        return {
            "serving_image": serving_image.get_concrete_function(),
            "serving_image_bytes": serving_image_bytes.get_concrete_function(),
        }

    return signatures


def signature_outputs(model: Any, files: Mapping[str, bytes], output: str) -> dict[str, np.ndarray]:
    """What both signatures of a loaded model give for JPEG or PNG files: float32 [files, units] by signature.

    output: "logits", "probabilities" or "features". `serving_image_bytes` gets the files as one batch,
    `serving_image` each by itself, since they are of different sizes.
    """
    by_image, by_bytes = (model.signatures[name] for name in ("serving_image", "serving_image_bytes"))
    one_by_one = [by_image(images=decode(file)[tf.newaxis])[output] for file in files.values()]
    together = by_bytes(image_bytes=tf.constant(list(files.values())))[output]
    return {"serving_image": tf.concat(one_by_one, 0).numpy(), "serving_image_bytes": together.numpy()}
