"""Runs a classifier or feature extractor as a function, times it, and writes the best classes down."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import write_text

REPEATS = 5


def timed(function: Callable[[np.ndarray], Any], inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """The function's value as an array, and the median time of a call in milliseconds, after one to warm up."""
    value = np.asarray(function(inputs))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        np.asarray(function(inputs))
        seconds.append(time.perf_counter() - start)
    return value, 1000 * statistics.median(seconds)


def best(probabilities: np.ndarray, names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
    """The `top_k` best classes of one image, best first: `class` (its index), `name`, `probability`."""
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [{"class": int(i), "name": names[i], "probability": float(probabilities[i])} for i in order]


def cosine_similarities(features: np.ndarray) -> np.ndarray:
    """[N, width] -> [N, N]: 1 where two point the same way, 0 where one is all zeros."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    directions = features / np.where(lengths == 0, 1, lengths)
    return directions @ directions.T


def write_json(content: Mapping[str, Any], folder: str | os.PathLike, name: str) -> Path:
    """Writes `<folder>/<name>.json`, whole or not at all, and makes the folder where there is none."""
    path = Path(folder).expanduser() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path
