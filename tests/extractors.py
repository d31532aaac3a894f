"""Published tiny models, most of them to fine-tune: of golden weights, with a manifest, made once and only read."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import manifests
import numpy as np
import tiny

from utils.families.variants import get_variant

# kind -> (variant, artefact's name)
KINDS = {
    "convmixer": ("convmixer_tiny", "convmixer_tiny_fe"),
    "xla": ("mixer_tiny", "mixer_tiny_fe"),
    "plain": ("mixer_tiny", "mixer_tiny_fe_plain"),
    "convmixer any size": ("convmixer_tiny", "convmixer_tiny_fe"),
    "convmixer native": ("convmixer_tiny", "convmixer_tiny_fe"),  # with a .keras file beside it
    "mixer native": ("mixer_tiny", "mixer_tiny_fe"),
    "synthetic": ("convmixer_tiny", "convmixer_tiny_classification_synthetic"),
    "classifier": ("convmixer_tiny", "convmixer_tiny_classification"),
}
CLASSIFIERS = ("classifier", "synthetic")  # the latter says that its weights are


@functools.cache
def published(kind):
    """Folder, tarball and manifest of a tiny export; a parity row stands in for the comparison."""
    from utils.artefact.staging import Staging
    from utils.export.saved_model import describe_signatures, load_model, save_model

    variant_name, name = KINDS[kind]
    exported = _exported(kind)
    folder = Path(tempfile.mkdtemp(prefix="extractors-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with Staging(folder, name) as staging:
        save_model(exported, staging.model_dir)
        unpacked = staging.unpacked_candidate()
        manifest = manifests.manifest(
            staging.files,
            name=name,
            variant=get_variant(variant_name),
            head="classification" if kind in CLASSIFIERS else "fe",
            weights="synthetic" if kind == "synthetic" else "custom",
            versions={"tensorflow": "2", **exported.extra_versions},
            parameters=sum(int(np.prod(v.shape)) for v in exported.trainable.values()),
            signatures=describe_signatures(load_model(unpacked)),
        )
        if kind.endswith("native"):
            manifest |= {"keras": _write_keras(staging.beside["keras"], manifest)}
        return staging.publish(manifest)


def _write_keras(path, manifest):
    import proofs

    from utils.artefact import record
    from utils.files import hash_file
    from utils.keras_models import saving
    from utils.parity.golden import make_golden

    variant = get_variant(manifest["variant"])
    told = record.build_record(
        **{key: manifest[key] for key in ("name", "head", "weights", "source", "parameters")},
        variant=variant,
        units=32,
        image_size=48,
        preprocessing=variant.preprocessing,
        labels=None,
        golden=make_golden(proofs.proof(variant.name, "fe").truth, 48, 48, 0),
        tolerance=1e-5,
    )
    saving.write(path, variant, proofs.weights(variant.name), "fe", 48, told)
    return {"sha256": hash_file(path), "parity": {}}


def _exported(kind):
    if kind in CLASSIFIERS:
        return tiny.exported("convmixer_tiny", "classification", 48)
    if kind.startswith("convmixer"):
        return tiny.exported("convmixer_tiny", "fe", None if kind.endswith("any size") else 48)
    return tiny.mixer("fe", "plain" if kind == "plain" else "xla")[0]
