"""What can be verified of a download only by running it: its signatures, and the golden numbers that it carries.

A `.keras` or `.onnx` file is looked at here, too: its runtime says what is in it.
"""

from __future__ import annotations

import math
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from utils.artefact import record as records
from utils.artefact.contents import architecture_of, preprocessing_of, published_hash
from utils.errors import PackagingError
from utils.export import onnx_tensors
from utils.export.onnx_session import Session, Unloadable, import_onnxruntime
from utils.families import FAMILIES
from utils.families.base import COUNTER
from utils.families.variants import Preprocessing
from utils.keras_models import archive
from utils.keras_models.candidate import load_candidate
from utils.machine.quiet import quiet_imports
from utils.parity.comparison import compare_outputs
from utils.parity.golden import GOLDEN, Golden, read_golden
from utils.parity.report import describe
from utils.verify.files import Check, check_hash, check_name

Run = Callable[[np.ndarray], np.ndarray]

NATIVE = (".keras", ".onnx")  # endings of files that are not unpacked
DEFAULT, IMAGES, BYTES = "serving_default", "serving_image", "serving_image_bytes"


def import_tensorflow() -> ModuleType:
    """TensorFlow, computing in float32 also where a GPU would take TensorFloat-32. PackagingError without it."""
    try:
        with quiet_imports():
            import tensorflow as tf
    except ImportError as error:
        raise PackagingError(f"TensorFlow cannot be imported ({error}). Install it: pip install tensorflow") from error
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return tf


def this_machine(ending: str = "") -> str:
    """Such as "TensorFlow 2.21.0, Python 3.11.7, Linux x86_64, CPU"; of Keras, where it ran on another backend.

    ending: of the file that was run.
    """
    system = f"{platform.system()} {platform.machine()}"
    if ending == ".onnx":
        return f"ONNX Runtime {import_onnxruntime().__version__}, Python {platform.python_version()}, {system}, CPU"
    keras = sys.modules.get("keras")
    if keras and keras.backend.backend() != "tensorflow":
        return f"Keras {keras.__version__} on {keras.backend.backend()}, Python {platform.python_version()}, {system}"
    tf = import_tensorflow()
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return f"TensorFlow {tf.__version__}, Python {platform.python_version()}, {system}, {device}"


def golden_of(folder: Path) -> Golden:
    """The golden data of an unpacked artefact. PackagingError where there are none."""
    for path in (folder / GOLDEN, folder / Path(GOLDEN).name):
        if path.is_file():
            return read_golden(path.read_bytes(), path.name)
    raise PackagingError("it carries no golden inputs and outputs: nobody can say whether its numbers are right.")


def check_saved_model(folder: Path, manifest: Mapping[str, Any]) -> list[Check]:
    """Loads a SavedModel, calls each signature, and computes the golden numbers twice, by call and by signature."""
    golden = golden_of(folder)
    tf = import_tensorflow()
    from utils.export.saved_model import MAPS, describe_signatures

    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:
        needs = manifest.get("minimum_tensorflow")
        hint = f" It needs TensorFlow {needs} or newer." if needs else ""
        return [Check("load", False, f"TensorFlow {tf.__version__} cannot load it: {_first_line(error)}.{hint}")]
    require_architecture(manifest, (math.prod(variable.shape) for variable in model.variables))
    described = describe_signatures(model)
    if described != manifest["signatures"]:
        return [Check("signatures", False, f"found {described}, and the manifest says {manifest['signatures']}")]
    (output,) = described[DEFAULT]["outputs"]
    functions = {
        "the model called": lambda inputs: model(tf.constant(inputs), training=False).numpy(),
        DEFAULT: lambda inputs: model.signatures[DEFAULT](inputs=tf.constant(inputs))[output].numpy(),
    }
    called = [_check_image_signatures(tf, model, described)] if IMAGES in described else []
    if MAPS in described:
        called.append(_check_maps(tf, model.signatures[MAPS], described[MAPS]["outputs"], golden))
    tolerance = manifest["parity"]["tolerance"].get(output)
    return called + [_check_numbers(golden, run, how, tolerance, output) for how, run in functions.items()]


def check_lite(folder: Path, manifest: Mapping[str, Any]) -> list[Check]:
    """Runs a TFLite model on the golden inputs, all at once and one by one; each check names the runtime."""
    golden, (_, runtime) = golden_of(folder), lite_runtime()
    try:
        run = lite_function(folder / "model.tflite", preprocessing_of(manifest))
    except Exception as error:
        return [Check("load", False, f"{runtime} cannot load it: {_first_line(error)}")]
    (output,) = manifest["signatures"][DEFAULT]["outputs"]
    tolerance = manifest["parity"]["tolerance"].get(output)
    return _check_batches(golden, lambda inputs: run(inputs)[output], tolerance, output, f", {runtime}")


def check_native(path: Path) -> Iterator[Check]:
    """Looks at a `.keras` or `.onnx` file, then runs it: on the backend that KERAS_BACKEND names, or by ONNX Runtime.

    PackagingError for what is no whole file of this project.
    """
    name = path.resolve().stem
    yield (published := check_hash("files", path, published_hash(path, name), f"{name}.json"))
    try:
        if path.suffix == ".keras":
            what, record = "a Keras 3 model of Keras's own layers", archive.read_record(path)
            archive.check(path)
        else:
            sizes = onnx_tensors.sizes(path)
            what, session = "an ONNX model that ONNX Runtime loads", Session(path)
            record = records.record_from_texts(session.metadata, path.name)
    except Unloadable as error:
        if not published.passed:  # damage is likelier than an old runtime
            raise
        yield Check("load", False, str(error))
        return
    records.check_record(record, path.name)
    preprocessing_of(record)
    golden = records.golden_of(record, path.name)
    yield Check("contents", True, f"{what}, with its record")
    yield check_name(path, record)
    try:
        with quiet_imports():
            run = load_candidate(path, record["model"]["family"]) if path.suffix == ".keras" else session
    except PackagingError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        yield Check("load", False, str(error))
        return
    if path.suffix == ".keras":
        sizes = [math.prod(variable.shape) for variable in run.model.variables]
    require_architecture(record, sizes)
    yield from _check_batches(golden, run, record["tolerance"], record["output"])


def require_architecture(facts: Mapping[str, Any], sizes: Iterable[int]) -> None:
    """PackagingError where arrays are missing that a model of the family and the sizes that it names would have.

    facts: a manifest or a record, checked. sizes: how many numbers each array has; the classifier's are not compared.
    """
    family = FAMILIES[facts["model"]["family"]]
    shapes = family.layout.shapes(architecture_of(facts))
    kept = [key for key in shapes if key not in family.head_keys and not key.endswith(COUNTER)]
    missing = Counter(math.prod(shapes[key]) for key in kept) - Counter(sizes)
    if missing:
        raise PackagingError(
            f"it is no {family.title} of the sizes that it says it is: {missing.total()} arrays of such a one are not "
            "in it."
        )


def lite_runtime() -> tuple[Callable[..., Any], str]:
    """What makes an interpreter of a .tflite file's path, and its name: LiteRT, or else what is left in TensorFlow.

    TensorFlow's is deprecated, and warns at each use, but there is nothing else where TensorFlow alone is installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        tf = import_tensorflow()

        def quietly(*arguments: Any, **options: Any) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return tf.lite.Interpreter(*arguments, **options)

        return quietly, f"TensorFlow {tf.__version__}'s TFLite"
    return Interpreter, f"LiteRT {metadata.version('ai-edge-litert')}"


def lite_function(path: Path, preprocessing: Preprocessing) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A .tflite file's `serving_default` as a function of what the SavedModel takes: normalised float32 NHWC arrays.

    The file itself takes levels of 0 to 255, and normalises them.
    """
    interpreter, _ = lite_runtime()
    runner = interpreter(str(path)).get_signature_runner(DEFAULT)
    mean, std = np.float64(preprocessing.mean), np.float64(preprocessing.std)

    def run(inputs: np.ndarray) -> dict[str, np.ndarray]:
        with quiet_imports():  # the first run says that there is XNNPACK
            return dict(runner(images=(inputs * std + mean).astype(np.float32)))

    return run


def _check_batches(
    golden: Golden, function: Run, tolerance: float | None, output: str, runtime: str = ""
) -> list[Check]:
    """What `function` makes of the golden inputs, all at once and one by one."""
    single = lambda inputs: np.concatenate([function(image[None]) for image in inputs])  # noqa: E731
    return [
        _check_numbers(golden, function, f"one batch{runtime}", tolerance, output),
        _check_numbers(golden, single, f"image by image{runtime}", tolerance, output),
    ]


def _check_numbers(golden: Golden, function: Run, how: str, tolerance: float | None, output: str) -> Check:
    """What `function` makes of the golden inputs against the golden outputs. how: it is run, in words."""
    if tolerance is None:
        return Check("numbers", False, f"the manifest names no tolerance for {output}")
    try:
        (row,) = compare_outputs(lambda _: golden.outputs, function, {how: golden.inputs}, output, tolerance)
    except Exception as error:
        return Check("numbers", False, f"{how}: it cannot be run: {_first_line(error)}")
    return Check("numbers", row.passed, describe(row))


def _check_image_signatures(tf: ModuleType, model: Any, described: Mapping[str, Any]) -> Check:
    """The signatures for pictures: what comes out has the shapes that the manifest says, the same from both."""
    rows = np.arange(61)[:, None, None]
    picture = (rows * 3 + np.arange(83)[None, :, None] * 2 + np.arange(3) * 40) % 256
    images = np.stack([picture, 255 - picture]).astype(np.uint8)
    try:
        found = {IMAGES: model.signatures[IMAGES](images=tf.constant(images))}
        if BYTES in described:
            encoded = tf.stack([tf.io.encode_png(image) for image in images])
            found[BYTES] = model.signatures[BYTES](image_bytes=encoded)
    except Exception as error:
        return Check("signatures", False, f"{IMAGES} or {BYTES} cannot be called: {_first_line(error)}")
    for name, outputs in found.items():
        for key, tensor in outputs.items():
            value, expected = tensor.numpy(), described[name]["outputs"][key]["shape"]
            if value.shape != (len(images), *expected[1:]) or not np.isfinite(value).all():
                return Check("signatures", False, f"{name}, {key}: {list(value.shape)}, or not finite")
            first = found[IMAGES][key].numpy()
            if np.abs(value - first).max() > 1e-4 * max(1.0, np.abs(first).max()):  # PNG loses nothing
                return Check("signatures", False, f"{key} differs between {IMAGES} and {BYTES}")
    return Check("signatures", True, f"{', '.join(found)} called; {DEFAULT}: see numbers")


def _check_maps(tf: ModuleType, signature: Callable[..., Any], described: Mapping[str, Any], golden: Golden) -> Check:
    """What the signature of maps gives for a golden image has the shapes that the manifest says, and is finite."""
    try:
        found = signature(inputs=tf.constant(golden.inputs[:1]))
    except Exception as error:
        return Check("signatures", False, f"the maps cannot be computed: {_first_line(error)}")
    for name, tensor in described.items():
        value, expected = found[name].numpy(), tensor["shape"]
        if not tf.TensorShape(expected).is_compatible_with(value.shape):
            return Check("signatures", False, f"map {name}: {list(value.shape)}, expected {expected}")
        if not np.isfinite(value).all():
            return Check("signatures", False, f"map {name}: not finite")
    return Check("signatures", True, f"maps computed: {', '.join(described)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
