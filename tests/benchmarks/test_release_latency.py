"""Latency beside the source: what is timed, in which turns, and what a release is told of it."""

import json
import shutil

import artefacts
import manifests
import pytest

from benchmarks import command, contenders, docs, latency, release_latency
from benchmarks.exports import noise
from utils.errors import PackagingError
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.release import index


def test_each_artefact_takes_turns_with_its_source_and_its_latency_is_told_as_the_source_s_multiple(
    tmp_path, monkeypatch, capsys
):
    seconds = {"convmixer_tiny_fe": 1.0, "mixer_tiny_fe": 0.75, "mixer_tiny_fe_plain": 1.0}
    sources = {"convmixer_tiny in PyTorch": 2.0, "mixer_tiny in JAX": 0.5}
    begun, killed = [], set()

    class Stub:
        """A process that needs the seconds above, and at every other call much more."""

        def __init__(self, label, prepare, *arguments, environment):
            self.name, self.arguments = label, arguments
            assert (prepare is release_latency.prepare_source) == (label in sources)
            assert environment == {"TF_ENABLE_ONEDNN_OPTS": "1"}

        def __call__(self):
            if self.name in killed:
                raise RuntimeError("killed, or out of memory")
            return [9 * (seconds | sources)[self.name], (seconds | sources)[self.name]]

        def __enter__(self):
            begun.append((self.name, *self.arguments))
            return self

        def __exit__(self, *_):
            pass

    def leave(name, variant, **facts):
        told = manifests.manifest(name=name, variant=get_variant(variant), head="fe")
        told["model"]["preprocessing"] |= {"resize": 64, "crop": 56}  # its own size, not the variant's
        told["tarball"] = {"sha256": sha256[name]}
        (tmp_path / f"{name}.json").write_text(json.dumps(told | facts))
        manifests.save(tmp_path / name)

    sha256 = {
        name: 32 * code
        for name, code in zip((*seconds, "mixer_tiny_fe_float16"), ("a1", "b2", "c3", "d4"), strict=True)
    }
    for name in seconds:
        leave(name, name.split("_fe")[0])
    leave("mixer_tiny_fe_float16", "mixer_tiny", derived_from={"name": "mixer_tiny_fe", "files": {}})
    (tmp_path / "index.json").write_text('{"artefacts": []}')
    monkeypatch.setattr(release_latency, "Worker", Stub)
    monkeypatch.setattr(latency, "PAUSE_SECONDS", 0)
    release_latency.main([str(tmp_path), "--output-dir", str(tmp_path / "tables")])

    asked = {label: (label.split()[0], "fe", 56) for label in sources}
    asked |= {name: (tmp_path / name, 56) for name in seconds}
    assert {name: tuple(arguments) for name, *arguments in begun} == asked
    rounds = [[name for name, *_ in begun][start : start + 3] for start in (6, 9, 12)]
    turns = ["mixer_tiny in JAX", "mixer_tiny_fe", "mixer_tiny_fe_plain"]
    assert [names[0] for names in rounds] == turns
    assert all(sorted(names) == turns for names in rounds)
    machine = command.notes("x", [], ())["machine"]
    assert index.read_latencies(tmp_path / index.LATENCY) == {
        sha256["convmixer_tiny_fe"]: told(1000, 2000, 0.5, "PyTorch", machine),
        sha256["mixer_tiny_fe"]: told(750, 500, 1.5, "JAX", machine),
        sha256["mixer_tiny_fe_plain"]: told(1000, 500, 2, "JAX", machine),
    }
    text = (tmp_path / "tables" / "release_latency.md").read_text(encoding="utf-8")
    assert "| `convmixer_tiny_fe` | 1000 | 5000 | 9000 | PyTorch | 2000 | 0.50 |" in text
    assert docs.latencies(tmp_path / "tables")["mixer_tiny_fe"] == {"milliseconds": 750, "times": 1.5}

    killed.add("mixer_tiny_fe_plain")  # the others' figures are not lost for it
    release_latency.main([str(tmp_path), "--output-dir", str(tmp_path / "tables")])
    assert list(index.read_latencies(tmp_path / index.LATENCY)) == [sha256["convmixer_tiny_fe"]]
    assert "not timed: mixer_tiny_fe, mixer_tiny_fe_plain: killed" in capsys.readouterr().err
    shutil.copy(tmp_path / "mixer_tiny_fe.json", tmp_path / "convmixer_tiny_fe.json")
    with pytest.raises(PackagingError, match=r"convmixer_tiny_fe\.json is of 'mixer_tiny_fe'"):
        release_latency.main([str(tmp_path), "--output-dir", str(tmp_path / "tables")])


def told(milliseconds, source, times, framework, machine):
    figures = {"milliseconds": milliseconds, "source_milliseconds": source, "times": times}
    return figures | {"framework": framework, "machine": machine, "threads": release_latency.THREADS}


def test_the_source_of_an_artefact_has_its_head_and_takes_one_image_of_its_size(monkeypatch):
    asked = []

    def contender(variant, head):
        return lambda images: lambda: asked.append((variant.name, head, images.shape))

    monkeypatch.setitem(release_latency.SOURCES, "mixer", ("JAX", contender))
    monkeypatch.setattr(release_latency, "keep_to_cores", asked.append)  # not this process
    assert len(release_latency.prepare_source("mixer_tiny", "fe", 48)()) == release_latency.REPEATS
    assert asked == [
        release_latency.THREADS,
        *[("mixer_tiny", "fe", (1, 48, 48, 3))] * (release_latency.WARM_UP + release_latency.REPEATS),
    ]


def test_a_folder_without_an_unpacked_artefact_has_no_latency_and_that_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        release_latency.main([str(tmp_path), "--output-dir", str(tmp_path)])
    assert f"{tmp_path} has no unpacked artefact" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_latency_is_measured_of_each_artefact_that_is_unpacked_and_of_its_source(tmp_path):
    for head in ("classification", "fe"):
        artefacts.publish(tmp_path / "exports", head=head)
    shutil.rmtree(tmp_path / "exports" / "convmixer_tiny_fe")  # its tarball alone is left
    artefacts.publish(tmp_path / "exports", "mixer_tiny", head="fe")
    release_latency.main([str(tmp_path / "exports"), "--output-dir", str(tmp_path)])
    samples = json.loads((tmp_path / "release_latency.json").read_text(encoding="utf-8"))["samples"]
    names = {"convmixer_tiny_classification": "PyTorch", "mixer_tiny_fe": "JAX"}
    assert {sample["name"]: sample["framework"] for sample in samples} == names
    for sample in samples:
        for fastest, calls in ((sample["seconds"], "calls"), (sample["source_seconds"], "source_calls")):
            assert len(sample[calls]) == release_latency.ROUNDS * release_latency.REPEATS
            assert fastest == pytest.approx(min(sample[calls]), abs=1e-6)  # written rounded
            assert 0 < min(sample[calls]) < max(sample[calls])
    tarballs = {hash_file(tmp_path / "exports" / f"{name}.tar.gz") for name in names}
    assert set(index.read_latencies(tmp_path / "exports" / index.LATENCY)) == tarballs
    variant = get_variant("convmixer_tiny")
    features = contenders.pytorch(variant, "fe")(noise(1, variant.image_size))()
    assert features.shape == (1, variant.architecture.dim)  # not its classes
