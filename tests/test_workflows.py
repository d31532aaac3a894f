"""GitHub's workflows: well-formed, with few rights, and a release that publishes everything or nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from utils.families.variants import BESIDE, VARIANTS
from utils.files import hash_file
from utils.release.command import release_matrix
from utils.release.folder import PUBLISHED
from utils.release.index import INDEX, PAGE, SUMS, TABLE, VERIFIER

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
LOADED = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
RELEASE = LOADED["release"]
RIGHTS = {"contents": "write", "actions": "read", "id-token": "write", "attestations": "write"}


def test_actionlint_finds_nothing():
    command = [Path(sys.executable).parent / "actionlint", "-shellcheck=", "-pyflakes=", "-no-color", *WORKFLOWS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_a_release_is_published_by_one_job_that_needs_all_others_and_alone_may_write():
    jobs = RELEASE["jobs"]
    assert [name for name, job in jobs.items() if "gh release" in json.dumps(job)] == ["publish"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    assert {name: job["permissions"] for name, job in jobs.items() if "permissions" in job} == {"publish": RIGHTS}
    conditions = [part["if"] for job in jobs.values() for part in (job, *job.get("steps", [])) if "if" in part]
    assert set(conditions) == {"github.event_name == 'push'"}  # none like `always()`
    text = json.dumps(RELEASE, default=str)
    assert "continue-on-error" not in text
    assert "|| true" not in text


def test_actions_are_pinned_by_commit():
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))]
    pinned = re.compile(r"actions/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert [line for line in used if not pinned.fullmatch(line)] == ["./.github/workflows/ci.yml"]


@pytest.mark.parametrize("name", LOADED)
def test_jobs_end_and_leave_no_credentials_and_take_no_text_into_shells(name):
    assert LOADED[name]["permissions"] == {"contents": "read"}
    for job in LOADED[name]["jobs"].values():
        assert "uses" in job or "timeout-minutes" in job
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), "give it to the shell by env"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_no_index_is_asked_beside_the_default_one_for_any_package():
    """A second index could give any package to pip; --index-url with --no-deps asks one index for one package."""
    files = [*WORKFLOWS, ROOT / "Makefile", ROOT / ".ci/setup", *ROOT.glob("requirements*.txt")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert not re.search(r"extra[-_]index", text, re.IGNORECASE)
    commands = [line for line in text.replace("\\\n", " ").splitlines() if "--index-url" in line]
    assert [line for line in commands if "--no-deps" not in line] == []


# --- the release


def test_the_matrix_is_every_official_artefact_once():
    official = [variant.name for variant in VARIANTS.values() if not variant.testing]
    rows = release_matrix()
    assert [row["variant"] for row in rows] == official
    files = [file for row in rows for file in row["files"]]
    assert len(files) == len(set(files))
    for head in ("classification", "fe"):
        made = [f"{name}_{head}" for name in official]
        plain = [f"{name}_plain" for name in made if name.startswith("mixer")]
        assert {f"{name}.{ending}" for name in made + plain for ending in ("tar.gz", "json", "md")} <= set(files)
        assert {f"{name}.keras" for name in made} <= set(files)
        assert {f"{name}.onnx" for name in made if name.startswith("convmixer")} <= set(files)


def test_the_plan_needs_nothing_installed_and_prints_one_line():
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_module('utils.release', {{}}, '__main__')"
    command = [sys.executable, "-I", "-S", "-c", code, "--matrix"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout) == {"include": release_matrix()}


def test_the_release_converts_official_checkpoints_and_verifies_and_uploads_every_kind_of_file_that_it_makes():
    steps = RELEASE["jobs"]["convert"]["steps"]
    (converted,) = [step["run"] for step in steps if "utils.batch" in step.get("run", "")]
    assert "--checkpoint official" in converted
    assert '--formats "$FORMATS"' in converted
    assert RELEASE["jobs"]["convert"]["env"]["FORMATS"] == "${{ matrix.formats }}"
    (verified,) = [step["run"] for step in steps if "utils.verify" in step.get("run", "")]
    (uploaded,) = [step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", "")]
    models = {".tar.gz", ".tflite", *(f".{key}" for key in BESIDE)}
    assert set(re.findall(r"'\*(\.[\w.]+)'", verified)) == models
    assert uploaded.split() == [f"exports/{name}" for name in (*PUBLISHED, PAGE, SUMS)]


def test_the_commands_of_workflows_are_modules_of_this_repository():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    for name in set(re.findall(r"python -m ((?:utils|benchmarks)\.[\w.]+)", text)):
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


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
        entry |= {"head": "fe", "weights": "official", "parameters": 1, "bytes": 1}
        (part / INDEX).write_text(json.dumps({"artefacts": [entry]}))
        for name in (TABLE, PAGE):
            (part / name).write_text("of one variant")
        files |= {name: hash_file(part / name) for name in (INDEX, TABLE, PAGE)}
        (part / SUMS).write_text("".join(f"{value}  {file}\n" for file, value in files.items()))
    last = tmp_path / "left" / rows[1]["variant"] / rows[1]["files"][3]
    if fault == "a file is missing":
        last.unlink()
    elif fault:
        last.write_text("other")
    (tmp_path / "bin").mkdir()
    (tmp_path / "published").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"MATRIX": json.dumps({"include": rows}), "TAG": "v1.0.0"}
    environment |= {"GITHUB_RUN_ID": "7", "GITHUB_REPOSITORY": "o/r"}
    done = []
    for step in RELEASE["jobs"]["publish"]["steps"]:
        if "run" in step and not any(done):  # as on GitHub, no step follows one that failed
            command = ["bash", "-eo", "pipefail", "-c", step["run"]]
            done.append(subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode)
    log = (tmp_path / "gh.log").read_text()
    assert "--draft " in next(line for line in log.splitlines() if line.startswith("release create"))
    if fault:
        assert done[0] != 0
        assert rows[1]["files"][0] not in log
        assert "--draft=false" not in log
        return
    assert done == [0, 0, 0]
    there = {path.name for path in (tmp_path / "published").iterdir()}
    assert there == {file for row in rows for file in row["files"]} | {INDEX, SUMS, TABLE, PAGE, VERIFIER}
    assert "https://github.com/o/r/releases/download/v1.0.0" in (tmp_path / "published" / PAGE).read_text()
    assert log.splitlines()[-1] == "release edit v1.0.0 --notes-file dist/TABLE.md --draft=false"
    sums = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(sums, cwd=tmp_path / "published", check=False).returncode == 0
