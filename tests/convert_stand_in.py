"""Stands for `python -m utils.convert` in the tests of the batch: real artefacts, but no framework and no notebook.

What it does by an artefact's name is in `behaviour.json` in the output folder: "fail", "crash", "hang", "deaf" (to the
first interrupt), "memory", "empty" or "forget" (the further files that were asked for); else it converts. Notes in
`begun` each conversion that it begins, and in `shared` which folders for results of source models it finds, its own
first.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import manifests

from utils.artefact.staging import Staging
from utils.checkpoints.loading import resolve
from utils.convert import _parser
from utils.families.variants import OUTPUTS, artefact_name, get_variant
from utils.files import hash_file
from utils.parity.references import FOLDER_VARIABLE

ROW = manifests.ROW | {"relative": 1e-6}
GRADIENTS = manifests.GRADIENTS[0] | {"relative_l2": 3e-6}
# In a process of its own, as a notebook's kernel is, and in the middle of an artefact.
KERNEL = """
import sys, time
from pathlib import Path
from utils.artefact.staging import Staging
staging = Staging(sys.argv[1], sys.argv[2])
block = bytearray(int(sys.argv[3]))
block[::4096] = b"x" * len(block[::4096])
Path(sys.argv[1], "kernel").write_text(str(__import__("os").getpid()))
time.sleep(300)
"""


def convert(options, name, formats):
    variant = get_variant(options.variant)
    source = resolve(variant, options.checkpoint, options.seed)
    output = OUTPUTS[options.head]
    tensor = {"dtype": "float32", "shape": [None, 10]}
    with Staging(options.output_dir, name) as staging:
        staging.model_dir.mkdir(parents=True)
        (staging.model_dir / "saved_model.pb").write_bytes(name.encode() * 100)
        staging.unpacked_candidate()
        manifest = manifests.manifest(
            staging.files,
            name=name,
            variant=variant,
            head=options.head,
            weights=source.weights,
            source={"url": source.url, "path": source.path.name, "sha256": source.sha256},
            versions={"tensorflow": "2.21.0", "minimum_tensorflow": "2.14"},
            parameters=variant.parameters,
            signatures={"serving_default": {"inputs": {"inputs": tensor}, "outputs": {output: tensor}}},
            parity={"passed": True, "tolerance": {output: 1e-5}, "rows": [ROW | {"output": output}, GRADIENTS]},
            settings={"image_size": variant.image_size, "seed": options.seed}
            | ({"operations": options.operations} if variant.family == "mixer" else {}),
        )
        for key, path in staging.beside.items():
            if key in formats:
                path.write_bytes(b"bytes" * 100_000)
                manifest |= {key: {"sha256": hash_file(path)}}
        staging.publish(manifest)


def hang(folder, name, size):
    """Until the kernel is killed, or this is interrupted; then the kernel stays, which it should not."""
    kernel = subprocess.Popen([sys.executable, "-c", KERNEL, str(folder), name, str(size)])
    try:
        if kernel.wait():
            sys.exit("\nerror: the kernel died")
    except KeyboardInterrupt:
        (folder / "cleaned").touch()
        sys.exit(130)


def main():
    options = _parser().parse_args()
    folder = Path(options.output_dir)
    name = artefact_name(options.variant, options.head, options.checkpoint, options.operations)
    own = Path(os.environ[FOLDER_VARIABLE])
    others = set(os.listdir(own.parent)) - {"new", "lock", own.name}
    for file, words in (("begun", [name]), ("shared", [own, *others])):
        with (folder / file).open("a") as log:
            print(*words, file=log)
    behaviour = folder / "behaviour.json"
    what = json.loads(behaviour.read_text()).get(name) if behaviour.exists() else None
    signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "deaf" else signal.default_int_handler)
    print("cell 1 of 2\ncell 2 of 2", flush=True)
    if what == "fail":
        sys.exit("\nerror: a planted failure")
    if what == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if what in ("hang", "deaf", "memory"):
        hang(folder, name, size=400_000_000 if what == "memory" else 1)
    if what != "empty":
        convert(options, name, formats="" if what == "forget" else options.formats)


if __name__ == "__main__":
    main()
