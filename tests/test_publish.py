"""Publishing: what really arrives at stand-ins for both sites, sent by their own libraries, and what never leaves."""

import hashlib
import json
import sys
import zipfile

import hubs
import keras_tiny
import manifests
import numpy as np
import pytest
import tiny
import yaml
from server import running

from utils import publish
from utils.artefact.contents import check_artefact
from utils.artefact.record import build_record
from utils.artefact.staging import Staging
from utils.export import saved_model
from utils.families.variants import VARIANTS
from utils.files import hash_file
from utils.keras_models import saving
from utils.parity.golden import make_golden
from utils.weights import weights_out

OWNER, TOKEN = "somebody", "hf_a-secret-that-nothing-prints"
NAME = "convmixer_768_32_classification"
REPOSITORY = f"{OWNER}/{NAME}"
VARIANT = VARIANTS["convmixer_768_32"]
SOURCE = {"url": VARIANT.sources[0].url, "path": None, "sha256": "ab" * 32}
DOUBLE = "TEST DOUBLE: these are no official weights, whatever this manifest says"
LABELS = "".join(f"n{i}\tclass {i}\n" for i in range(10))


def make(folder, name=NAME, keras=False, inside=None, record=None, **changes):
    """A test double of an artefact of official weights, and says so. inside, record: changes of these alone."""
    fields = {"name": name, "variant": VARIANT, "weights": "official", "source": SOURCE, "notes": [DOUBLE]} | changes
    with Staging(folder, name) as stage:
        manifests.save(stage.model_dir)
        (stage.model_dir / "assets.extra" / "labels.tsv").write_text(LABELS)
        stage.unpacked_candidate()
        manifest = manifests.manifest(stage.files, **fields)
        if keras:
            made = build_record(
                **{key: fields[key] for key in ("name", "variant", "source")},
                **{"head": "classification", "weights": "official", "parameters": 8010, "units": 10, "image_size": 48},
                **{"preprocessing": VARIANT.preprocessing, "labels": None, "tolerance": 1e-5},
                golden=make_golden(lambda images: np.zeros((len(images), 10), np.float32), 48, 48, 0),
            )
            saving.save(keras_tiny.built(keras_tiny.MIXER), stage.beside["keras"], made | (record or {}))
            manifest |= {"keras": {"sha256": hash_file(stage.beside["keras"]), "parity": {}}}
        stage.publish(manifest | (inside or {}))
    beside = folder / f"{name}.json"
    if inside:  # as if somebody had edited what lies beside the tarball
        beside.write_text(json.dumps(json.loads(beside.read_text()) | {key: manifest[key] for key in inside}))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a SavedModel, a `.keras` and a `.tflite` file of one model; only read."""
    folder = make(tmp_path_factory.mktemp("release"), keras=True)
    manifests.lite(folder, NAME)
    return folder


@pytest.fixture
def hub(monkeypatch):
    with running(monkeypatch, 1, hubs.Hub) as (server,):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # what the stand-in cannot do
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def kaggle(monkeypatch):
    from kagglesdk import kaggle_env

    with running(monkeypatch, 1, hubs.Kaggle) as (server,):
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.url)
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        # It looks for a caller to name in the user agent, which takes seconds where TensorFlow is loaded.
        monkeypatch.setattr("kagglehub.clients.search_lib_in_call_stack", lambda _: None)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        yield server


def run(site, folder, *more):
    return publish.main([site, str(folder), "--owner", OWNER, *more])


def test_a_repository_holds_the_artefact_its_keras_model_and_its_card_after_one_commit(
    whole, hub, tmp_path, monkeypatch
):
    assert run("huggingface", whole, "--send") == 0
    assert hub.created[REPOSITORY]["visibility"] == "private"
    (commit,) = hub.commits[REPOSITORY]
    manifest = check_artefact(whole, NAME)
    inside = {path: hashlib.sha256(commit[f"{NAME}/{path}"]).hexdigest() for path in manifest["files"]}
    assert inside == manifest["files"]
    with zipfile.ZipFile(whole / f"{NAME}.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert {name: commit[name] for name in members} == members
    assert json.loads(commit[f"{NAME}.json"]) == manifest
    unlisted = {f"{NAME}/assets.extra/{name}" for name in ("README.md", "manifest.json")}
    listed = {f"{NAME}/{path}" for path in inside}
    assert set(commit) == {"README.md", f"{NAME}.json", *members, *listed, *unlisted}
    # What keras does with `hf://`, but for the download.
    for path, data in commit.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo_id, **_: {REPOSITORY: str(tmp_path)}[repo_id])
    loaded = saving.import_keras().saving.load_model(f"hf://{REPOSITORY}")
    for ours, theirs in zip(loaded.get_weights(), keras_tiny.built(keras_tiny.MIXER).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_card_begins_with_what_the_hub_reads(tmp_path, whole, hub):
    outputs = {"features": {"dtype": "float32", "shape": [None, 10]}}
    features = {"head": "fe", "signatures": {"serving_default": manifests.TENSORS | {"outputs": outputs}}}
    make(tmp_path, "mixer_b16_sam_fe", variant=VARIANTS["mixer_b16_sam"], **features)
    assert run("huggingface", tmp_path, "--send") == run("huggingface", whole, "--send") == 0
    card = hub.files(REPOSITORY)["README.md"].decode()
    _, header, body = card.split("---\n", 2)
    header = yaml.safe_load(header)
    (result,) = header.pop("model-index")[0]["results"]
    assert result["dataset"]["type"] == "imagenet-1k"
    assert result["metrics"][0]["value"] == VARIANT.top1
    assert result["source"]["url"] in VARIANT.top1_source
    assert header == {
        **{"license": "mit", "library_name": "keras", "pipeline_tag": "image-classification"},
        **{"base_model": "timm/convmixer_768_32.in1k", "base_model_relation": "quantized", "datasets": ["imagenet-1k"]},
        "tags": ["tensorflow", "saved-model", "convmixer"],
    }
    for part in (f"# {NAME}\n", f'load_model("hf://{REPOSITORY}")', f'hf download {REPOSITORY} --include "{NAME}/*"'):
        assert part in body
    header = yaml.safe_load(hub.files(f"{OWNER}/mixer_b16_sam_fe")["README.md"].decode().split("---\n")[1])
    assert (header["license"], header["pipeline_tag"]) == ("apache-2.0", "image-feature-extraction")
    assert {"base_model", "model-index"}.isdisjoint(header)


def test_publishing_anew_takes_away_what_is_no_longer_there(whole, hub, tmp_path):
    hub.commits[REPOSITORY] = [{"picture.png": b"", "README.md": b"", "config.json": b"", f"{NAME}/old.pb": b""}]
    assert run("huggingface", make(tmp_path), "--send") == 0
    assert len(hub.commits[REPOSITORY]) == 2
    assert not {"config.json", f"{NAME}/old.pb"} & set(hub.files(REPOSITORY))
    assert hub.files(REPOSITORY)["picture.png"] == b""


def test_kaggle_gets_a_variation_for_each_framework(whole, kaggle):
    assert run("kaggle", whole, "--send") == 0
    frameworks = {f: f"MODEL_FRAMEWORK_{f}" for f in ("TENSOR_FLOW_2", "KERAS", "TF_LITE")}
    model, variation = f"{OWNER}/convmixer", "768-32-classification"
    handles = {f: f"{model}/{e}/{variation}" + "-int8" * (f == "TF_LITE") for f, e in frameworks.items()}
    assert set(kaggle.variations) == set(handles.values())
    assert {said["licenseName"] for said in kaggle.variations.values()} == {"MIT"}
    arrived = {f: kaggle.variations[handle]["files"] for f, handle in handles.items()}
    for framework, file in (("KERAS", f"{NAME}.keras"), ("TF_LITE", f"{NAME}_int8.tflite")):
        assert arrived[framework] == {file: (whole / file).read_bytes()}
    folder = whole / NAME
    there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert arrived["TENSOR_FLOW_2"] == there


@pytest.mark.parametrize("site", publish.SITES)
def test_a_dry_run_shows_all_and_sends_nothing(site, whole, hub, kaggle, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # not even installed
    assert run(site, whole) == 0
    assert hub.requests == kaggle.requests == []
    said = capsys.readouterr().out
    size = f"{(whole / NAME / 'saved_model.pb').stat().st_size:>15,}  "
    shown = {
        "huggingface": [f"huggingface.co/{REPOSITORY}", f"{size}{NAME}/saved_model.pb", "pipeline_tag: image-cl"],
        "kaggle": [f"{OWNER}/convmixer/keras/768-32-classification", f"{size}saved_model.pb", "name: MIT"],
    }
    for part in (*shown[site], "Nothing was sent"):
        assert part in said


REFUSED = {
    "synthetic weights": {"name": f"{NAME}_synthetic", "weights": "synthetic"},
    "custom weights: give both --licence and --card": {"weights": "custom", "name": "mine", "variant": manifests.own()},
    "custom weights under the name of convmixer_768_32: convert the checkpoint again with a `name` of your own": {
        **{"weights": "custom", "name": "ConvMixer-768_32_mine", "variant": manifests.own()}
    },
    "fine-tuned": {"training": manifests.TRAINING},
    "a model for tests": {"variant": VARIANTS["convmixer_tiny"], "name": manifests.NAME},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_one_artefact_that_is_not_official_stops_all(reason, hub, tmp_path, capsys):
    make(tmp_path, "convmixer_1024_20_classification", variant=VARIANTS["convmixer_1024_20"])
    make(tmp_path, **REFUSED[reason])
    assert run("huggingface", tmp_path, "--send") == 1
    assert f"({reason}). Nothing was sent" in capsys.readouterr().err
    assert run("huggingface", tmp_path) == 1  # and shows it, but claims nothing about it
    assert hub.requests == []
    said = capsys.readouterr().out
    assert said.count("huggingface.co/") == 2
    assert "base_model: timm/convmixer_768_32" not in said
    assert run("huggingface", tmp_path, "--send", "--only", "convmixer_1024*") == 0
    assert list(hub.commits) == [f"{OWNER}/convmixer_1024_20_classification"]


OWN = "flowers_classification"
WORDS = "Trained on *my* flowers.\n\n```\nleft open"


@pytest.fixture
def flowers(tmp_path):
    """A folder with a model of one's own, and the options that publish it."""
    card = tmp_path / "card.md"
    card.write_text(WORDS)
    folder = tmp_path / "exports"
    folder.mkdir()
    source = {"url": None, "path": "flowers.pth", "sha256": "ab" * 32}
    make(folder, OWN, weights="custom", variant=manifests.own(), source=source)
    return folder, ("--licence", "CC-BY-4.0", "--card", str(card))


def test_a_model_of_ones_own_goes_to_the_hub_under_its_maker_s_name_and_licence(flowers, hub):
    folder, options = flowers
    assert run("huggingface", folder, "--send", *options) == 0
    files = hub.files(f"{OWNER}/{OWN}")
    _, header, body = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(header) == {
        **{"license": "cc-by-4.0", "library_name": "tensorflow", "pipeline_tag": "image-classification"},
        "tags": ["tensorflow", "saved-model", "convmixer"],
    }
    inside = files[f"{OWN}/assets.extra/README.md"].decode()
    for card in (body, inside):
        assert card.rstrip().endswith(WORDS)
        assert "**CC-BY-4.0**" in card
        assert "ASSUMED" in card
    manifest = check_artefact(folder, OWN)
    assert json.loads(files[f"{OWN}.json"]) == manifest
    hashes = {path: hashlib.sha256(files[f"{OWN}/{path}"]).hexdigest() for path in manifest["files"]}
    assert hashes == manifest["files"]


def test_a_model_of_ones_own_goes_to_kaggle_under_its_licence(flowers, kaggle):
    folder, options = flowers
    assert run("kaggle", folder, "--send", *options) == 0
    ((handle, said),) = kaggle.variations.items()
    assert handle.endswith("/flowers-classification")
    assert said["licenseName"] == "CC-BY-4.0"
    assert said["files"]["assets.extra/README.md"].decode().rstrip().endswith(WORDS)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with a real model of one's own, the options that publish it, and its weights as `utils.weights` does."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "card.md").write_text(WORDS)
    exported = tiny.exported("convmixer_tiny", "classification", 48)
    with Staging(folder / "exports", OWN) as stage:
        saved_model.save_model(exported, stage.model_dir)
        stage.unpacked_candidate()
        stage.publish(manifests.manifest(stage.files, name=OWN, variant=manifests.own()))
    weights_out(str(folder / "exports" / OWN), str(folder / "expected.safetensors"))
    options = ("--licence", "CC-BY-4.0", "--card", str(folder / "card.md"), "--weights", "--send")
    return folder / "exports", options, (folder / "expected.safetensors").read_bytes()


def test_the_weights_go_to_the_hub_beside_the_saved_model_and_are_taken_away_without_them(real, hub):
    folder, options, expected = real
    assert run("huggingface", folder, *options) == 0
    assert hub.files(f"{OWNER}/{OWN}")[f"{OWN}.safetensors"] == expected
    assert run("huggingface", folder, *(each for each in options if each != "--weights")) == 0
    assert f"{OWN}.safetensors" not in hub.files(f"{OWNER}/{OWN}")


def test_the_weights_are_a_variation_of_their_framework_on_kaggle(real, kaggle):
    folder, options, expected = real
    assert run("kaggle", folder, *options) == 0
    (handle,) = (each for each in kaggle.variations if "PY_TORCH" in each)
    assert handle.endswith("/convmixer/MODEL_FRAMEWORK_PY_TORCH/flowers-classification")
    assert kaggle.variations[handle]["files"] == {f"{OWN}.safetensors": expected}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--licence", "MIT\n---"),
        ("--licence", "a --> b"),
        ("--card", "no such file"),
        ("--card", b""),
        ("--card", b" \n"),
        ("--card", b"\xff\xfe"),
        ("--card", b"x" * (64 * 1024 + 1)),
    ],
)
def test_a_licence_or_a_card_that_cannot_be_used_is_named(flowers, hub, capsys, option, value):
    folder, options = flowers
    if isinstance(value, bytes):
        (folder.parent / "bad.md").write_bytes(value)
        value = str(folder.parent / "bad.md")
    assert run("huggingface", folder, "--send", *options, option, value) == 1
    assert f"error: {option} is " in capsys.readouterr().err
    assert hub.requests == []


def test_nobody_gives_official_weights_a_licence(flowers, hub, whole, capsys):
    _, options = flowers
    assert run("huggingface", whole, "--send", *options) == 1
    assert "leave out --licence and --card" in capsys.readouterr().err
    assert hub.requests == []


def test_synthetic_weights_under_an_official_name_are_refused(hub, tmp_path, capsys):
    make(tmp_path, inside={"weights": "custom"})
    assert run("huggingface", tmp_path, "--send") == 1
    assert "inside is another manifest than beside it" in capsys.readouterr().err
    assert run("huggingface", make(tmp_path, keras=True, record={"weights": "synthetic"}), "--send") == 1
    assert hub.requests == []


@pytest.mark.parametrize("file", [f"{NAME}.tar.gz", f"{NAME}.keras", f"{NAME}_int8.tflite"])
def test_a_file_changed_after_its_manifest_stops_all(file, hub, tmp_path, capsys):
    make(tmp_path, "convmixer_1024_20_classification", variant=VARIANTS["convmixer_1024_20"])
    manifests.lite(make(tmp_path, keras=True), NAME)
    data = bytearray((tmp_path / file).read_bytes())
    data[100] ^= 1
    (tmp_path / file).write_bytes(data)
    assert run("huggingface", tmp_path, "--send") == 1
    assert file in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize("site", publish.SITES)
def test_a_server_that_fails_publishes_nothing_and_is_named(site, whole, hub, kaggle, capsys):
    hub.failing, kaggle.failing = ("/commit/main",), ("/CreateModelInstance",)
    assert run(site, whole, "--send") == 1
    assert (hub.commits, kaggle.variations) == ({}, {})
    said = capsys.readouterr()
    for part in (" was not published: ", "500 ", "Nothing was sent before. Run again", OWNER):
        assert part in said.err
    assert TOKEN not in said.out + said.err
    asked = hub.requests + kaggle.requests
    assert f"Bearer {TOKEN}" in {headers.get("Authorization") or headers.get("authorization") for _, headers in asked}


@pytest.mark.parametrize(("site", "said"), [("huggingface", "hf auth login"), ("kaggle", "kaggle.com/settings")])
def test_without_a_token_it_says_where_to_get_one(site, said, whole, hub, kaggle, monkeypatch, tmp_path, capsys):
    for name in ("HF_TOKEN", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name)
    for name in ("HOME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    assert run(site, whole, "--send") == 1
    assert said in capsys.readouterr().err
    assert hub.requests == kaggle.requests == []


def test_the_library_that_is_missing_is_named_with_the_pinned_version(whole, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "kagglehub.config", None)
    assert run("kaggle", whole, "--send") == 1
    assert f"pip install {publish.KAGGLEHUB}" in capsys.readouterr().err
    assert publish.KAGGLEHUB in (manifests.Path(__file__).parents[1] / "requirements-dev.txt").read_text().splitlines()


def test_what_was_sent_before_a_failure_is_told(hub, tmp_path, capsys):
    first = "convmixer_1024_20_classification"
    make(make(tmp_path), first, variant=VARIANTS["convmixer_1024_20"])
    hub.failing = (f"{NAME}/commit/main",)
    assert run("huggingface", tmp_path, "--send") == 1
    assert list(hub.commits) == [f"{OWNER}/{first}"]
    assert f"Sent before: huggingface.co/{OWNER}/{first}." in capsys.readouterr().err


def test_nothing_of_that_name_is_an_error(whole, capsys):
    assert run("huggingface", whole, "--only", "mixer*") == 1
    assert "no artefact named mixer*" in capsys.readouterr().err
