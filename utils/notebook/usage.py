"""How a published artefact is used: lines of Python with its real path, which run as they stand."""

from __future__ import annotations

import json

from utils.artefact.staging import Published


def usage(published: Published) -> str:
    """A program for TensorFlow alone; zeros stand for the user's images."""
    manifest = json.loads(published.manifest.read_text(encoding="utf-8"))
    signatures, preparation = manifest["signatures"], manifest["model"]["preprocessing"]
    ((output, _),) = signatures["serving_default"]["outputs"].items()
    _, *shape = signatures["serving_default"]["inputs"]["inputs"]["shape"]
    shape = [1, *(size or preparation["crop"] for size in shape)]
    lines = [
        "import tensorflow as tf",
        "",
        f"model = tf.saved_model.load({str(published.folder)!r})",
        f"inputs = tf.zeros({shape})  # your images, normalised as the model card says",
        f"{output} = model(inputs)",
    ]
    if "serving_image_bytes" in signatures:
        answer = "probabilities" if output == "logits" else output
        lines += [
            "",
            'photograph = tf.io.encode_jpeg(tf.zeros([480, 640, 3], tf.uint8))  # or tf.io.read_file("rose.jpg")',
            f'{answer} = model.signatures["serving_image_bytes"](image_bytes=photograph[tf.newaxis])["{answer}"]',
        ]
    return "\n".join(lines)
