"""A client of TensorFlow Serving's REST interface, as an example to copy: the standard library is all it needs.

python -m utils.serving_client http://localhost:8501 convmixer_768_32_classification photograph.jpg another.png
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60


class ServingError(Exception):
    """The server refused, or did not answer."""


def predict(server: str, model: str, files: Sequence[bytes]) -> list[Any]:
    """What the model says of JPEG or PNG files of any sizes, which are sent as one batch.

    Of each {"logits": …, "probabilities": …} by a classifier, its features by the other. Raises as `post`.
    """
    instances = [{"b64": base64.b64encode(file).decode("ascii")} for file in files]
    return post(server, model, "serving_image_bytes", instances)


def post(server: str, model: str, signature: str, instances: Sequence[Any]) -> list[Any]:
    """What a signature gives for each instance.

    Args:
        server: its address, such as http://localhost:8501.
        model: the name under which it serves the model.
        signature: of the model.
        instances: what JSON can hold.

    Raises:
        ServingError: with the server's own words where it refuses.
    """
    url = f"{server.rstrip('/')}/v1/models/{model}:predict"
    body = json.dumps({"signature_name": signature, "instances": instances}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:1000]
        raise ServingError(f"{url} refused the request (HTTP {error.code}): {said}") from error
    except (OSError, ValueError, KeyError) as error:
        raise ServingError(f"{url} gave no predictions: {error}. Is TensorFlow Serving running there?") from error


def main(arguments: list[str] | None = None) -> int:
    """Prints the best class, or the number of features, of each file. Exit status: 0, or 1 with a message."""
    parser = argparse.ArgumentParser(prog="python -m utils.serving_client", description=__doc__.splitlines()[0])
    parser.add_argument("server", help="such as http://localhost:8501")
    parser.add_argument("model", help="the name that the server gives the model")
    parser.add_argument("files", nargs="+", type=Path, help="JPEG or PNG")
    options = parser.parse_args(arguments)
    try:
        answers = predict(options.server, options.model, [path.read_bytes() for path in options.files])
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path, answer in zip(options.files, answers, strict=True):
        if isinstance(answer, dict):
            probabilities = answer["probabilities"]
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            print(f"{path}: class {best} (line {best + 1} of labels.tsv), probability {probabilities[best]:.4f}")
        else:
            print(f"{path}: {len(answer)} features")
    return 0


if __name__ == "__main__":
    sys.exit(main())
