"""GitHub's workflows: well-formed, with few rights, and a release that publishes everything or nothing."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import artefacts
import pytest
import yaml
from server import Server, respond, serving

from utils.export.image_signatures import image_signatures
from utils.families.variants import BESIDE, VARIANTS, get_variant
from utils.files import hash_file
from utils.release.command import release_matrix
from utils.release.folder import PUBLISHED
from utils.release.index import INDEX, PAGE, SUMS, TABLE, VERIFIER
from utils.settings import formats_of

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TINY = "convmixer_tiny"
ACTIONLINT = Path(sys.executable).parent / "actionlint"


def actionlint(*paths):
    command = [str(ACTIONLINT), "-shellcheck=", "-pyflakes=", "-no-color", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_actionlint_finds_nothing_and_would_find_a_fault(tmp_path):
    assert len(WORKFLOWS) == 3
    done = actionlint(*WORKFLOWS)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    (tmp_path / "release.yml").write_text(text.replace("needs.plan.outputs.matrix", "needs.plan.outputs.rows"))
    assert "rows" in actionlint(tmp_path / "release.yml").stdout


def load(path):
    """A workflow, with its triggers under "on": YAML 1.1 takes that word for true."""
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)
    return workflow


RELEASE = load(ROOT / ".github/workflows/release.yml")


RIGHTS = {"contents": "write", "actions": "read", "id-token": "write", "attestations": "write"}


def leaks(workflow):
    """Reasons why this release could publish although a job did not pass, or a job has more rights than it needs."""
    jobs, text = workflow["jobs"], json.dumps(workflow)
    publishing = [name for name, job in jobs.items() if "gh release" in json.dumps(job)]
    found = [f"published by {publishing}"] if publishing != ["publish"] else []
    if missing := set(jobs) - {"publish"} - set(jobs["publish"]["needs"]):
        found.append(f"publish does not need {sorted(missing)}")
    conditions = [str(part.get("if", "")) for job in jobs.values() for part in (job, *job.get("steps", []))]
    found += [f"condition {c}" for c in conditions if re.search(r"always|failure|cancelled|success|!", c)]
    found += [word for word in ("continue-on-error", "|| true") if word in text]
    rights = {name: job["permissions"] for name, job in jobs.items() if "permissions" in job}
    if workflow.get("permissions") != {"contents": "read"} or rights != {"publish": RIGHTS}:
        found.append(f"permissions {rights}")
    return found


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("publish needs", ["test", "plan"], "publish does not need ['convert']"),
        ("publish if", "always()", "condition always()"),
        ("publish if", "${{ !cancelled() }}", "condition ${{ !cancelled() }}"),
        ("convert continue-on-error", True, "continue-on-error"),
        ("convert run", "convert || true", "|| true"),
        ("convert permissions", {"contents": "write"}, "permissions"),
        ("convert run", "gh release upload", "published by"),
    ],
)
def test_a_release_is_published_by_one_job_that_needs_all_others_and_a_leak_would_be_found(place, value, said):
    assert leaks(RELEASE) == []
    workflow, (job, key) = copy.deepcopy(RELEASE), place.split()
    workflow["jobs"][job][key] = value
    assert [leak for leak in leaks(workflow) if leak.startswith(said)]


def test_the_draft_is_published_last():
    text = "\n".join(step.get("run", "") for step in RELEASE["jobs"]["publish"]["steps"])
    commands = re.split(r"(?=gh release )", text)[1:]
    assert [command.split()[2] for command in commands] == ["view", "create", "upload", "upload", "edit"]
    assert "--draft " in commands[1]
    assert [command for command in commands if "--draft=false" in command] == commands[-1:]


def unmade(commands):
    """Files in `dist` that these commands read although nothing has made them."""
    steps = [line for command in commands for line in command.splitlines()]
    made = set()
    if any("utils.release dist" in line for line in steps):
        made |= {INDEX, SUMS, TABLE, PAGE}
    made |= {name for line in steps if "utils.verify.app" in line for name in re.findall(r"dist/([\w.]+)", line)}
    return set(re.findall(r"dist/([A-Za-z][\w.]*)", "\n".join(steps))) - made


def test_the_release_has_the_verifier_and_reads_no_file_that_nothing_made():
    steps = RELEASE["jobs"]["publish"]["steps"]
    commands = [step.get("run", "") + step.get("with", {}).get("subject-checksums", "") for step in steps]
    assert any("utils.verify.app dist/verify.pyz" in command for command in commands)
    assert unmade(commands) == set()
    assert unmade([command.replace("TABLE.md", "releases.md") for command in commands]) == {"releases.md"}
    assert unmade([command for command in commands if "utils.release" not in command]) == {TABLE, SUMS}


def test_the_release_converts_official_checkpoints_only():
    text = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
    assert re.search(r"utils\.batch .*\n? .*--checkpoint official", text)
    assert "synthetic" not in text


def test_the_release_verifies_and_uploads_every_kind_of_file_that_it_makes():
    steps = RELEASE["jobs"]["convert"]["steps"]
    (verified,) = [step["run"] for step in steps if "utils.verify" in step.get("run", "")]
    (uploaded,) = [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")]
    models = {".tar.gz", ".tflite", *(f".{key}" for key in BESIDE)}
    assert set(re.findall(r"'\*(\.[\w.]+)'", verified)) == models
    assert {f"*{ending}" for ending in models} < set(PUBLISHED)
    assert uploaded.split() == [f"exports/{name}" for name in (*PUBLISHED, PAGE, SUMS)]


def test_actions_are_pinned_by_commit():
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))]
    pinned = re.compile(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert [line for line in used if not pinned.fullmatch(line)] == ["./.github/workflows/ci.yml"]


GH = """#!/usr/bin/env python3
import pathlib, shutil, sys

command, options = sys.argv[1:3], sys.argv[3:]
with open("gh.log", "a") as log:
    print(*sys.argv[1:], file=log)
if command == ["release", "view"]:
    sys.exit(1)
if command == ["run", "download"]:
    shutil.copytree(pathlib.Path("left", options[options.index("--name") + 1]), options[options.index("--dir") + 1])
if command == ["release", "upload"]:
    for path in options[2:]:
        shutil.copy(path, "published")
"""


@pytest.mark.skipif(
    not shutil.which("jq") or not shutil.which("sha256sum"), reason="GitHub's runner has jq and sha256sum"
)
@pytest.mark.parametrize("fault", [None, "a file is missing", "a file is damaged"])
def test_the_draft_is_filled_one_variant_at_a_time_and_nothing_is_published_of_damaged_ones(tmp_path, fault):
    """The job's own steps, with a stand-in for GitHub's command."""
    rows = release_matrix()[1:5:3]
    for row in rows:
        (part := tmp_path / "left" / row["variant"]).mkdir(parents=True)
        for file in row["files"]:
            (part / file).write_text(file)
        files = {file: hash_file(part / file) for file in row["files"]}
        entry = {"name": "a", "file": row["files"][0], "files": files, "family": "x", "variant": row["variant"]}
        entry |= {"operations": None, "head": "fe", "weights": "official", "parameters": 1, "bytes": 1, "output": "x"}
        entry |= {"output_error": None, "gradients_error": None, "minimum_tensorflow": "", "keras_bytes": 5}
        (part / INDEX).write_text(json.dumps({"artefacts": [entry]}))
        (part / TABLE).write_text("")
        (part / PAGE).write_text("of one variant")
        files |= {name: hash_file(part / name) for name in (INDEX, TABLE, PAGE)}
        (part / SUMS).write_text("".join(f"{value}  {file}\n" for file, value in files.items()))
    if fault == "a file is missing":
        (tmp_path / "left" / rows[1]["variant"] / rows[1]["files"][3]).unlink()
    elif fault:
        (tmp_path / "left" / rows[1]["variant"] / rows[1]["files"][3]).write_text("other")
    (tmp_path / "bin").mkdir()
    (tmp_path / "published").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {
        "MATRIX": json.dumps({"include": rows}),
        "TAG": "v1.0.0",
        "GITHUB_RUN_ID": "7",
        "GITHUB_REPOSITORY": "o/r",
    }
    commands = [step["run"] for step in RELEASE["jobs"]["publish"]["steps"] if "run" in step]
    done = [
        subprocess.run(
            ["bash", "-eo", "pipefail", "-c", command], cwd=tmp_path, env=environment, check=False
        ).returncode
        for command in commands[: 1 if fault else None]
    ]
    log = (tmp_path / "gh.log").read_text()
    if fault:
        assert done[0] != 0
        assert rows[1]["files"][0] not in log
        return
    assert done == [0, 0, 0]
    assert not (tmp_path / "part").exists()
    there = {path.name for path in (tmp_path / "published").iterdir()}
    lists = {INDEX, SUMS, TABLE, PAGE, VERIFIER}
    assert there == {file for row in rows for file in row["files"]} | lists
    for name in (INDEX, PAGE):
        assert "https://github.com/o/r/releases/download/v1.0.0" in (tmp_path / "published" / name).read_text()
    assert log.count(PAGE) == 1  # no variant's own
    assert log.splitlines()[-1] == "release edit v1.0.0 --notes-file dist/TABLE.md --draft=false"
    sums = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(sums, cwd=tmp_path / "published", check=False).returncode == 0


DOCKER = """#!/bin/sh
echo "$@" >> docker.log
[ "$1" != run ] || [ -s models/*/1/saved_model.pb ]
"""


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("timeout"), reason="GitHub's runner has both")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(None, marks=pytest.mark.slow),
        "numbers are off",
        pytest.param("no server answers", marks=pytest.mark.slow),
    ],
)
def test_a_classifier_that_tensorflow_serving_does_not_serve_right_stops_its_job(tmp_path, fault):
    """The job's own step, with a stand-in for Docker: the server runs here."""
    from utils.export.saved_model import load_model

    staged = artefacts.publish(tmp_path / "exports", signatures=image_signatures(get_variant(TINY).preprocessing))
    server, name = Server(), f"{TINY}_classification"
    status = json.dumps({"model_version_status": [{"state": "AVAILABLE"}]}).encode()
    if fault != "no server answers":
        server.answers[f"/v1/models/{name}"] = lambda handler: respond(handler, status)
    server.answers[f"/v1/models/{name}:predict"] = serving(
        load_model(staged.folder), (lambda output: output * 1.001) if fault else (lambda output: output)
    )
    programs = {"bin/docker": DOCKER, ".venv/bin/python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}
    for path, text in programs.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (step,) = [step for step in RELEASE["jobs"]["convert"]["steps"] if "docker" in step.get("run", "")]
    environment = os.environ | step["env"] | {"VARIANT": TINY, "ADDRESS": server.url, "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    line = ["bash", "-eo", "pipefail", "-c", step["run"].replace("timeout 300", "timeout 3")]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    log = (tmp_path / "docker.log").read_text()
    assert f"-e MODEL_NAME={name} tensorflow/serving:2." in log
    assert (done.returncode == 0) == (fault is None), done.stdout + done.stderr
    if fault == "no server answers":
        assert log.splitlines()[-1] == "logs serving"
    else:
        assert "chelsea.jpg: class " in done.stdout
        said = "no, logits 1.0e-03 off" if fault else "yes, 3 of 3 photographs named alike"
        assert f"TensorFlow Serving | {name} | serving_" in done.stdout, done.stderr
        assert said in done.stdout


@pytest.fixture
def latency_steps():
    """The commands of a job that time the artefacts, and that take the latencies into the index."""
    commands = [step.get("run", "") for step in RELEASE["jobs"]["convert"]["steps"]]
    (timed,) = [place for place, command in enumerate(commands) if "benchmarks.release_latency exports" in command]
    (listed,) = [place for place, command in enumerate(commands) if "utils.release exports" in command]
    (made,) = [place for place, command in enumerate(commands) if "utils.batch" in command]
    assert made < timed < listed
    return commands[timed], commands[listed]


def test_a_release_times_its_artefacts_before_it_lists_them(latency_steps):
    assert '--output-dir "$RUNNER_TEMP"' in latency_steps[0]  # not into the checkout's own tables


@pytest.mark.slow
def test_a_job_s_own_steps_leave_the_latency_of_an_artefact_in_its_index(tmp_path, latency_steps):
    artefacts.publish(tmp_path / "exports")
    manifest = json.loads((path := tmp_path / "exports" / f"{TINY}_classification.json").read_text())
    manifest |= {"weights": "official", "source": {"url": "https://x.org/a", "path": None, "sha256": "ab" * 32}}
    path.write_text(json.dumps(manifest))  # the tests' artefacts are of custom weights, which no release has
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RUNNER_TEMP": str(tmp_path / "temporary")}
    for command in latency_steps:
        subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=tmp_path, env=environment, check=True)
    (entry,) = json.loads((tmp_path / "exports" / INDEX).read_text())["artefacts"]
    assert entry["latency"]["framework"] == "PyTorch"
    assert entry["latency"]["times"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {".venv", "exports", "temporary"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_end_and_leave_no_credentials_and_take_no_text_into_shells(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert "uses" in job or "timeout-minutes" in job, name
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), f"{name}: give it to the shell by env"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_no_index_is_asked_beside_the_default_one_for_any_package():
    """Whoever can put a package into a second index could give any package from there; --index-url is for one."""
    files = [*WORKFLOWS, ROOT / "Makefile", ROOT / ".ci/setup", *ROOT.glob("requirements*.txt")]
    asking = re.compile(r"extra[-_]index", re.IGNORECASE)
    assert asking.search("PIP_EXTRA_INDEX_URL")
    assert [path.name for path in files if asking.search(path.read_text(encoding="utf-8"))] == []
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    commands = [line for line in text.replace("\\\n", " ").splitlines() if "--index-url" in line]
    assert len(commands) == 3
    assert [line for line in commands if "--no-deps" not in line] == []


def test_the_fast_tests_run_on_a_second_system():
    (macos,) = [job for job in load(ROOT / ".github/workflows/ci.yml")["jobs"].values() if "macos" in job["runs-on"]]
    assert macos["steps"][-1]["run"] == "make test"


def test_the_matrix_is_every_official_artefact_once():
    rows = release_matrix()
    official = [v for v in VARIANTS.values() if not v.testing]
    assert [row["variant"] for row in rows] == [v.name for v in official]
    names = {f"{v.name}_{head}" for v in official for head in ("classification", "fe")}
    twins = {f"{name}_plain" for name in names if name.startswith("mixer")}
    assert len(names | twins) == 28 + 22
    files = [file for row in rows for file in row["files"]]
    beside = ((".keras", names), (".onnx", {name for name in names if name.startswith("convmixer")}))
    for ending, expected in ((".tar.gz", names | twins), (".json", names | twins), *beside):
        assert sorted(file for file in files if file.endswith(ending)) == sorted(f"{name}{ending}" for name in expected)


def test_the_release_asks_for_the_formats_whose_files_it_expects():
    (convert,) = [step["run"] for step in RELEASE["jobs"]["convert"]["steps"] if "utils.batch" in step.get("run", "")]
    assert '--formats "$FORMATS"' in convert
    assert RELEASE["jobs"]["convert"]["env"]["FORMATS"] == "${{ matrix.formats }}"
    for row in release_matrix():
        files = {Path(file).suffix for file in row["files"]}
        asked = formats_of(row["formats"], get_variant(row["variant"]).family)
        assert {key for key in BESIDE if f".{key}" in files} == set(asked) - {"saved_model"} != set()


def test_the_plan_needs_nothing_installed_and_prints_one_line():
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_module('utils.release', {{}}, '__main__')"
    command = [sys.executable, "-I", "-S", "-c", code, "--matrix"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout) == {"include": release_matrix()}


def test_the_workflow_s_commands_are_modules_of_this_repository():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    modules = set(re.findall(r"python -m utils\.(\w+)", text))
    assert modules >= {"batch", "smaller", "verify", "release"}
    here = {path.stem for path in (ROOT / "utils").glob("*.py")}
    here |= {path.parent.name for path in (ROOT / "utils").glob("*/__main__.py")}
    assert modules - here == set()
