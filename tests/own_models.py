"""Tiny models of one's own: of either family, any number of channels, each activation, random weights."""

import numpy as np

from utils.families import FAMILIES
from utils.families.convmixer import ConvMixerArchitecture
from utils.families.mlp_mixer import MixerArchitecture
from utils.families.variants import Preprocessing, own_variant

SIZE = 32


def own(family, channels=3, activation="gelu", **sizes):
    """The variant; sizes: other fields of the architecture. Its mean and std differ by channel."""
    if family == "convmixer":
        sizes = {"dim": 16, "depth": 2, "kernel_size": 5, "patch_size": 4} | sizes
        kind = ConvMixerArchitecture
    else:
        sizes = {"patch_size": 8, "hidden_dim": 16, "blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32} | sizes
        sizes["image_size"], kind = SIZE, MixerArchitecture
    architecture = kind(activation=activation, channels=channels, classes=7, **sizes)
    mean, std = (tuple(first + 3.0 * i for i in range(channels)) for first in (110.0, 55.0))
    return own_variant(family, architecture=architecture, preprocessing=Preprocessing(36, SIZE, mean, std))


def weights(variant):
    return dict(FAMILIES[variant.family].synthetic.arrays(variant.architecture, 0))


def published(folder, variant, head="classification", operations="xla"):
    """Folder, tarball and manifest, as a conversion of a checkpoint of one's own leaves them."""
    import manifests
    from gate.exports import proof_of

    from utils.artefact.manifest import installed_versions
    from utils.artefact.staging import Staging
    from utils.export import saved_model, signatures
    from utils.parity.golden import make_golden, write_golden
    from utils.parity.report import Report

    arrays, preprocessing, name = weights(variant), variant.preprocessing, f"own_{head}"
    proof = proof_of(variant, arrays, head)
    exported = FAMILIES[variant.family].models.export(proof.source, arrays, SIZE, operations).function
    with Staging(folder, name) as staging:
        saved_model.save_model(exported, staging.model_dir, signatures.image_signatures(preprocessing))
        signatures.write_warmup(staging.model_dir, preprocessing)
        golden = make_golden(proof.truth, SIZE, SIZE, 0, channels=preprocessing.channels)
        write_golden(staging.model_dir, golden)
        candidate = saved_model.Candidate(saved_model.load_model(staging.unpacked_candidate()), exported.axes)
        report = Report(proof.compare_outputs(candidate, "golden", golden.inputs))
        report.require()
        fields = {
            "files": staging.files,
            "name": name,
            "variant": variant,
            "head": head,
            "versions": installed_versions(["tensorflow"]) | exported.extra_versions,
            "parameters": int(np.sum([array.size for array in proof.source.variables().values()])),
            "signatures": saved_model.describe_signatures(candidate.model),
            "parity": report.to_json(),
            "settings": {"operations": operations},
        }
        return staging.publish(manifests.manifest(**fields))
