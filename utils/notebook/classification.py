"""What classification.ipynb does: opens models, shows them a photograph, times them, and finds similar ones."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from utils.artefact.assumed import assumptions
from utils.artefact.opening import Pretrained, open_models
from utils.errors import ParameterError
from utils.files import write_text
from utils.images.photographs import load_image, pillow_preprocess, sample_photographs
from utils.images.source import read_image_file
from utils.machine.quiet import quiet_imports
from utils.notebook.at_hand import at_hand
from utils.notebook.display import Notice, notices, percent, plot_neighbours, plot_predictions, softmax
from utils.settings import check_output_dir, whole_number
from utils.text import printed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEATS = 5


class Classification:
    """Models and a photograph; ParameterError names a parameter that makes no sense.

    Args:
        model: paths and addresses of models, separated by commas, or "auto".
        image: what `read_image_file` takes.
        top_k: how many classes are shown.
        output_dir: where the result goes.
    """

    def __init__(self, model: str, image: str, top_k: int, output_dir: str) -> None:
        self._paths = [each.strip() for each in model.split(",")] if isinstance(model, str) else []
        if not self._paths or not all(self._paths):
            raise ParameterError(
                f"model is {model!r}; expected the path of a SavedModel folder or tarball, or an address of a tarball; "
                "several separated by commas"
            )
        if not isinstance(image, str) or not image.strip():
            raise ParameterError(
                f"image is {image!r}; expected a sample's name, the path or URL of an image, or 'upload'"
            )
        whole_number("top_k", top_k, 1, 50)
        check_output_dir(output_dir)
        self._image, self._top_k, self._output_dir = image, top_k, output_dir

    def open(self) -> dict[str, str]:
        """Opens the models, by name in `models`; returns a line on each. ParameterError for one without photographs."""
        if "auto" in self._paths:
            print("Looking for a model; where there is none, one is fetched or made, which takes a minute or two.")
        with quiet_imports():
            chosen = [at_hand(path, "classification", self._output_dir, "exports") for path in self._paths]
            self.models = open_models([each.model for each in chosen])
            for name, each in self.models.items():
                each.preprocessing.check_photographs(name)
            self._functions = {name: _function(each) for name, each in self.models.items()}
        synthetic = [name for name, each in self.models.items() if each.weights == "synthetic"]
        # Shown above each picture, where it cannot be overlooked.
        self.weights_note = f"Made from SYNTHETIC WEIGHTS, random numbers: {', '.join(synthetic)}" if synthetic else ""
        assumed = [f"{name}: {text}" for name, each in self.models.items() for text in assumptions(each.manifest)]
        self.notices = [*(each.notice for each in chosen), *assumed]
        return {
            name: f"{each.manifest['parameters']:,} parameters, {each.weights} weights, "
            f"{f'{len(each.names):,} classes' if each.names else 'features'}"
            for name, each in self.models.items()
        }

    @property
    def saved_model(self) -> Pretrained | None:
        """The first model that is no `.keras` file."""
        return next((each for each in self.models.values() if each.folder), None)

    def look(self) -> Image.Image:
        """Reads the photograph; returns a small copy."""
        title, file = read_image_file(self._image)
        self.title = printed(title)
        self.photograph = load_image(file)
        preview = self.photograph.copy()
        preview.thumbnail((480, 480))
        return preview

    def batch(self, model: Pretrained) -> np.ndarray:
        """The photograph as the model takes it, by Pillow: float32 [1, height, width, channels]."""
        return pillow_preprocess(self.photograph, model.preprocessing)[None]

    def call(self, model: Pretrained) -> np.ndarray:
        """What a SavedModel gives for the photograph, through TF Hub's layer."""
        return np.asarray(self._functions[model.name](self.batch(model)))

    def summary(self, model: Pretrained, outputs: Any) -> str:
        """What outputs [1, units] say of the photograph: the best class, or how many features there are."""
        if model.output != "logits":
            return f"{np.asarray(outputs).shape[1]} features"
        (first,) = best(softmax(np.asarray(outputs))[0], model.names, 1)
        return f"{first['name']}, {percent(first['probability'])}"

    def jpeg(self) -> bytes:
        """The photograph as a JPEG file."""
        self.photograph.save(file := io.BytesIO(), "JPEG", quality=95)
        return file.getvalue()

    def classify(self) -> Figure | Notice:
        """Bars of each classifier's best classes, which are written to `<output_dir>/classification.json`, too."""
        bars, results, names = {}, {}, {}
        for name, each in self.models.items():
            if each.output == "logits":
                logits, milliseconds = timed(self._functions[name], self.batch(each))
                title = f"{name}\n{milliseconds:.0f} ms"
                bars[title], names[title] = softmax(logits), each.names
                results[name] = {
                    "milliseconds": milliseconds,
                    "best": best(bars[title][0], each.names, self._top_k),
                }
        if not bars:
            return Notice("No classifier was chosen: feature extractors come below.")
        self._write({"image": self.title, "models": results})
        notices(self.weights_note)
        return plot_predictions({self.title: self.photograph}, bars, names, self._top_k)

    def _write(self, content: Mapping[str, Any]) -> None:
        path = Path(self._output_dir).expanduser() / "classification.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        print("written:", path)

    def neighbours(self) -> Figure | Notice:
        """The photograph, and the samples in the order of how similar each feature extractor considers them to it."""
        samples = {title: each for title, each in sample_photographs().items() if title != self._image}
        # A file may be called as a sample is.
        query = f"{self.title} (yours)" if self.title in samples else self.title
        photographs = {query: self.photograph, **samples}
        found = {}
        for name, each in self.models.items():
            if each.output == "features":
                batch = [pillow_preprocess(photograph, each.preprocessing) for photograph in photographs.values()]
                features = np.asarray(self._functions[name](np.stack(batch)))
                found[name] = dict(zip(samples, cosine_similarities(features)[0, 1:], strict=True))
        if not found:
            return Notice("No feature extractor was chosen: add one to `model`, such as a folder that ends in _fe.")
        notices(self.weights_note)
        return plot_neighbours(query, photographs, found)


def _function(model: Pretrained) -> Callable[[np.ndarray], Any]:
    from utils.keras_models import saving
    from utils.machine.hub_compat import import_hub

    if model.folder:
        return import_hub().KerasLayer(str(model.folder))
    return saving.load(model.keras_file).predict_on_batch


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
