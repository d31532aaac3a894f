"""What holds for the files themselves: notebooks as in git, names of places, versions that must agree."""

import ast
import json
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from utils.families.variants import VARIANTS
from utils.notebook.colab import PYTHONS, canonical

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
# Folders of somebody's machine, and documents that only its owner has.
ELSEWHERE = re.compile(
    r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/|\.\./shared\b|\bdesign\.md\b|\bissue #?\d", re.IGNORECASE
)
ABSOLUTE = re.compile(r"""["'](?:~|/\w+)/""")


def code_cells(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [dict(cell, source="".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def parameters(cells):
    (source,) = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    return source


@pytest.mark.parametrize(("notebook", "family"), [("convmixer", "convmixer"), ("mlpmixer", "mixer")])
def test_colab_s_form_offers_every_variant_of_the_family(notebook, family):
    source = parameters(code_cells(ROOT / f"conversion_{notebook}.ipynb"))
    offered = json.loads(re.search(r'^variant = "\w+"  #@param (\[.*\])$', source, re.MULTILINE)[1])
    assert sorted(offered) == sorted(["own", *(v.name for v in VARIANTS.values() if v.family == family)])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_short_cells_no_outputs_and_plain_parameters_and_runs_anywhere(notebook):
    assert json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3"
    cells = code_cells(notebook)
    # Papermill's parameters and Colab's form fields: `name = literal  #@param ...`.
    for line in filter(None, parameters(cells).splitlines()):
        if not line.startswith("#"):
            (statement,) = ast.parse(line).body
            assert isinstance(statement, ast.Assign), line
            ast.literal_eval(statement.value)
            assert "#@param" in line
    assert len(cells) <= 12
    for cell in cells:
        source = cell["source"]
        assert len(source.splitlines()) <= (22 if "#@param" in source else 20), source
        assert (cell["outputs"], cell["execution_count"]) == ([], None), source
        assert not ABSOLUTE.search(source), source
        assert "google.colab" in source or not re.search(r"^\s*[!%]", source, re.MULTILINE), source


def files_in_git():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if (ROOT / name).is_file()]


def test_no_text_file_names_a_place_on_somebodys_machine():
    found = []
    for path in files_in_git():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            if ELSEWHERE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_requirements_are_pinned_exactly():
    found = [pin for path in ROOT.glob("requirements*.txt") for pin in pins(path.name)]
    assert [pin for pin in found if not re.fullmatch(r"[A-Za-z0-9_-]+(\[[a-z]+\])?==[0-9][0-9.]*", pin)] == []


COMPILED_FROM = ("requirements.txt", "requirements-dev.txt")
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
CONSTRAINED = [Requirement(line.partition("  #")[0]) for line in CONSTRAINTS.splitlines() if not line.startswith("#")]


def reached(requirements):
    """Canonical names of installed packages: those named, and what they declare to need here, over all steps."""
    waiting, seen = [Requirement(line) for line in requirements], set()
    while waiting:
        wanted = waiting.pop()
        step = canonical(wanted.name), frozenset(wanted.extras)
        if step in seen:
            continue
        seen.add(step)
        for need in map(Requirement, metadata.requires(wanted.name) or []):
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                waiting.append(need)
    return {name for name, _ in seen}


def test_constraints_pin_exactly_what_the_requirements_pin_and_name_no_index():
    assert not re.search(r"://|--(extra-)?index|--find-links", CONSTRAINTS)
    pinned = {(canonical(found.name), str(found.specifier)): found.marker for found in CONSTRAINED}
    assert [version for _, version in pinned if not re.fullmatch(r"==[0-9][\w.]*", version)] == []
    wanted = [Requirement(pin) for name in COMPILED_FROM for pin in pins(name)]
    everywhere = {key for key, marker in pinned.items() if marker is None}
    assert {(canonical(found.name), str(found.specifier)) for found in wanted} - everywhere == set()


def test_no_installed_package_floats():
    requirements = [pin for name in COMPILED_FROM for pin in pins(name)]
    others = [pin for pin in map(Requirement, requirements) if metadata.version(pin.name) not in pin.specifier]
    if others:
        pytest.skip(f"not what is pinned is installed here: {', '.join(map(str, others))}")
    here = {canonical(found.name) for found in CONSTRAINED if not found.marker or found.marker.evaluate()}
    installed = reached(requirements)
    assert {"numpy", "scipy", "six", "idna"} <= installed  # of the second step, and the third
    assert installed - here == set()


def test_versions_that_stand_in_several_files_agree():
    revisions = re.findall(r"rev: v?(\S+)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    pinned = dict(pin.split("==") for pin in pins("requirements-dev.txt"))
    assert revisions == [pinned["ruff"], pinned["nbstripout"]]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    pythons = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert re.findall(r"(3\.\d+)\.\*", (ROOT / ".ci/setup").read_text(encoding="utf-8")) == pythons
    assert list(PYTHONS) == pythons
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={pythons[0]},<3.{int(pythons[-1][2:]) + 1}"' in project
