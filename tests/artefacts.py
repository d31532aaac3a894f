"""Published tiny artefacts, as the notebooks leave them: real models, with golden data from their source frameworks."""

import manifests
import tiny

from utils.artefact.manifest import installed_versions
from utils.artefact.staging import Staging
from utils.export import saved_model
from utils.export.signatures import write_warmup
from utils.families.variants import get_variant
from utils.parity import comparison
from utils.parity.golden import make_golden, write_golden
from utils.parity.report import Report


def publish(folder, name="convmixer_tiny", head="classification", operations="xla", signatures=None, **changes):
    """Folder, tarball and manifest of `name` in `folder`; the golden outputs come from PyTorch or Flax.

    changes: of the manifest.
    """
    exported, source = tiny.mixer(head, operations) if name == "mixer_tiny" else _convmixer(name, head)
    artefact = f"{name}_{head}" + ("_plain" if operations == "plain" else "")
    with Staging(folder, artefact) as staging:
        saved_model.save_model(exported, staging.model_dir, signatures)
        golden = make_golden(source, 48, 48, 0)
        write_golden(staging.model_dir, golden)
        write_warmup(staging.model_dir, get_variant(name).preprocessing)
        reloaded = saved_model.load_model(staging.unpacked_candidate())
        rows = comparison.compare_outputs(
            source, saved_model.as_function(reloaded), {"golden": golden.inputs}, exported.output
        )
        report = Report(rows)
        report.require()
        return staging.publish(
            manifests.manifest(
                staging.files,
                name=artefact,
                variant=get_variant(name),
                head=head,
                versions=installed_versions(["tensorflow"]) | exported.extra_versions,
                parameters=get_variant(name).parameters,
                signatures=saved_model.describe_signatures(reloaded),
                parity=report.to_json(),
                **changes,
            )
        )


def _convmixer(name, head):
    from utils.families.convmixer.source import as_nhwc

    return tiny.exported(name, head, 48), as_nhwc(tiny.source(name, head))
