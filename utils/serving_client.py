"""A client of TensorFlow Serving's REST interface, as an example to copy: the standard library is all it needs.

python -m utils.serving_client http://localhost:8501 convmixer_768_32_classification photograph.jpg another.png
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import reprlib
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60
MAX_BYTES = 256 << 20  # of an answer


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
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            text = response.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"its answer has more than {MAX_BYTES:,} bytes")
        answer = json.loads(text)
    except urllib.error.HTTPError as error:
        raise ServingError(f"{url} refused the request (HTTP {error.code}): {_said(error)}") from error
    # HTTPException: no HTTP at all, or a body cut short. RecursionError: JSON that is too deep.
    except (OSError, ValueError, http.client.HTTPException, RecursionError) as error:
        reason = ascii(str(error))[1:-1]
        raise ServingError(f"{url} gave no predictions: {reason}. Is TensorFlow Serving running there?") from error
    found = answer.get("predictions") if isinstance(answer, dict) else None
    if not isinstance(found, list) or len(found) != len(instances):
        raise ServingError(f"{url} gave no list of {len(instances)} predictions. Is TensorFlow Serving running there?")
    return found


def _said(error: urllib.error.HTTPError) -> str:
    """The server's words, in one line without control characters."""
    try:
        return ascii(error.read(1000).decode(errors="replace"))[1:-1]
    except (OSError, http.client.HTTPException):  # the connection broke
        return ascii(error.reason)


def numbers(value: Any) -> list[float]:
    """The value, if it is a list of finite numbers, and not empty; else ServingError."""
    if not (isinstance(value, list) and value and all(isinstance(each, int | float) for each in value)):
        raise ServingError(f"a prediction is no list of numbers: {reprlib.repr(value)}. Is it this project's model?")
    if not all(abs(each) <= sys.float_info.max for each in value):
        raise ServingError("a prediction has numbers that are not finite. Was the model damaged?")
    return value


def describe(answer: Any) -> str:
    """The best class, or the number of features. ServingError for what is neither."""
    if not isinstance(answer, dict):
        return f"{len(numbers(answer))} features"
    probabilities = numbers(answer.get("probabilities"))
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return f"class {best} (line {best + 1} of labels.tsv), probability {probabilities[best]:.4f}"


def main(arguments: list[str] | None = None) -> int:
    """Prints the best class, or the number of features, of each file. Exit status: 0, or 1 with a message."""
    parser = argparse.ArgumentParser(prog="python -m utils.serving_client", description=__doc__.splitlines()[0])
    parser.add_argument("server", help="such as http://localhost:8501")
    parser.add_argument("model", help="the name that the server gives the model")
    parser.add_argument("files", nargs="+", type=Path, help="JPEG or PNG")
    options = parser.parse_args(arguments)
    try:
        answers = predict(options.server, options.model, [path.read_bytes() for path in options.files])
        lines = [f"{path}: {describe(answer)}" for path, answer in zip(options.files, answers, strict=True)]
    except (ServingError, OSError) as error:
        print(f"error: {error}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return 1
    print("\n".join(lines).encode(errors="backslashreplace").decode())  # a file's name need not be text
    return 0


if __name__ == "__main__":
    sys.exit(main())
