"""Published tiny artefacts, as the notebooks leave them: real models, with golden data from their source frameworks."""

import tiny

from utils import parity, saved_model
from utils.golden import make_golden, write_golden
from utils.packaging import Staging, build_manifest, installed_versions
from utils.variants import get_variant


def publish(folder, name="convmixer_tiny", head="classification", operations="xla"):
    """Folder, tarball and manifest of `name` in `folder`; the golden outputs come from PyTorch or Flax."""
    exported, source = (_mixer if name.startswith("mixer") else _convmixer)(name, head, operations)
    artefact = f"{name}_{head}" + ("_plain" if operations == "plain" else "")
    with Staging(folder, artefact) as staging:
        saved_model.save_model(exported, staging.model_dir)
        golden = make_golden(source, 48, 48, 0)
        write_golden(staging.model_dir, golden)
        reloaded = saved_model.load_model(staging.unpacked_candidate())
        rows = parity.compare_outputs(
            source, saved_model.as_function(reloaded), {"golden": golden.inputs}, exported.output
        )
        report = parity.Report(rows)
        report.require()
        return staging.publish(
            build_manifest(
                name=artefact,
                variant=get_variant(name),
                head=head,
                weights="custom",
                source={"url": None, "path": "tiny", "sha256": "ab" * 32},
                versions=installed_versions(["tensorflow"]) | exported.extra_versions,
                parameters=get_variant(name).parameters,
                signatures=saved_model.describe_signatures(reloaded),
                parity=report.to_json(),
                seconds={"save": 1.0},
                peak_memory_mb=1.0,
                files=staging.files,
            )
        )


def _convmixer(name, head, _):
    from utils.convmixer import as_nhwc

    return tiny.exported(name, head, 48), as_nhwc(tiny.source(name, head))


def _mixer(name, head, operations):
    from utils import jax_export, mlp_mixer, plain_mixer_export
    from utils.checkpoints import read_mixer

    variant = get_variant(name)
    model = mlp_mixer.build(variant.architecture, head)
    parameters = mlp_mixer.select_parameters(model, read_mixer(tiny.GOLDEN / f"{name}.npz", variant))
    if operations == "plain":
        exported = plain_mixer_export.export(variant.architecture, head, parameters)
    else:
        predict = mlp_mixer.predict_function(model)
        exported = jax_export.export(predict, parameters, (48, 48, 3), tiny.OUTPUTS[head])
    return exported, mlp_mixer.as_function(model, parameters)
