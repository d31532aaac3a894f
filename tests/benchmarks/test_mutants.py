"""Planted faults: the list names what is there, and the tool tells what tests notice from what they miss."""

import json
import re
import subprocess

import pytest

from benchmarks import mutants

SUMS = """
def total(numbers):
    return sum(numbers)

def mean(numbers):
    return total(numbers) / len(numbers)
"""
TESTS = """
from utils.sums import mean, total

def test_total():
    assert total([1, 2]) == 3

def test_mean_of_one():
    assert mean([4]) == 4

def test_what_fails_anyway():
    assert False
"""
LIST = """
[[mutant]]
name = "{name}"
promise = "what is told"
find = '''{find}'''
replace = '''{replace}'''
tests = ["{tests}"]
"""


def row(name, find, replace, tests="tests/test_sums.py"):
    return LIST.format(name=name, find=find, replace=replace, tests=tests)


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Writes a list for a small repository beside it, and runs the tool; returns exit status and samples by name."""
    root, written = tmp_path / "repository", tmp_path / "tables"
    for name, text in {"utils/sums.py": SUMS, "tests/test_sums.py": TESTS.replace("assert False", "pass")}.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    monkeypatch.setattr(mutants, "ROOT", root)
    monkeypatch.setattr(mutants, "LIST", tmp_path / "list.toml")

    def run(*rows, arguments=()):
        mutants.LIST.write_text("".join(rows))
        status = mutants.main(["--output-dir", str(written), *arguments])
        assert (root / "utils/sums.py").read_text() == SUMS  # faults are planted in a copy
        samples = json.loads((written / "mutants.json").read_text())["samples"] if written.is_dir() else []
        return status, {sample["name"]: sample for sample in samples}

    run.root, run.written = root, written
    return run


def test_every_snippet_stands_once_in_the_sources_and_its_tests_are_there():
    texts, rows = mutants.sources(mutants.ROOT), mutants.read_list(mutants.LIST)
    assert len(rows) >= 60
    for mutant in rows:
        mutants.place_of(mutant, texts)
        missing = [name for name in mutant.tests if not (mutants.ROOT / name).exists()]
        assert (missing, bool(mutant.tests), bool(mutant.promise)) == ([], True, True), mutant.name


def test_a_fault_that_a_test_notices_is_told_from_one_that_none_does(plant):
    caught = row("caught", "return sum(numbers)", "return sum(numbers[1:])")
    missed = row("missed", "/ len(numbers)", "/ 1")
    status, samples = plant(caught, missed)
    assert status == 1
    assert {name: sample["verdict"] for name, sample in samples.items()} == {"caught": "caught", "missed": "SURVIVED"}
    assert samples["caught"]["test"] == "tests/test_sums.py::test_total"
    assert samples["caught"]["file"] == "utils/sums.py"
    assert plant(caught, missed, arguments=["caught"])[0] == 0


@pytest.mark.slow
def test_a_fault_that_is_planted_again_takes_its_old_place_in_the_table(plant):
    first, second = row("first", "sum(numbers)", "sum(numbers[1:])"), row("second", "/ len(numbers)", "/ 1")
    assert plant(first, second)[1]["second"]["verdict"] == "SURVIVED"
    (plant.root / "tests/test_sums.py").write_text(TESTS.replace("assert False", "assert mean([2, 4]) == 3"))
    status, samples = plant(first, second, arguments=["second"])
    assert (status, list(samples), samples["second"]["verdict"]) == (0, ["first", "second"], "caught")
    for _ in range(2):  # whoever reads it knows which run most rows are of
        assert re.search("^- other rows: .*benchmarks.mutants$", (plant.written / "mutants.md").read_text(), re.M)
        plant(first, second, arguments=["second"])
    assert list(plant(second, arguments=["second"])[1]) == ["second"]  # what the list no longer has, goes


@pytest.mark.parametrize("slow", ["pytestmark = pytest.mark.slow\n", pytest.param("", marks=pytest.mark.slow)])
def test_slow_tests_run_where_no_others_notice(plant, slow):
    one = TESTS.replace("def test_total", "@pytest.mark.slow\ndef test_total").replace("assert False", "pass")
    every = f"import pytest\n{slow}{one}"
    (plant.root / "tests/test_sums.py").write_text(every)
    status, samples = plant(row("caught", "return sum(numbers)", "return sum(numbers[:1])"))
    assert (status, samples["caught"]["test"]) == (0, "tests/test_sums.py::test_total")


def test_a_test_that_fails_anyway_has_noticed_nothing(plant):
    (plant.root / "tests/test_sums.py").write_text(TESTS)
    status, samples = plant(row("missed", "/ len(numbers)", "/ 1"))
    assert status == 1
    assert samples["missed"]["verdict"] == "tests/test_sums.py::test_what_fails_anyway fails without it, too"


@pytest.mark.parametrize(
    ("mutant", "verdict"),
    [
        (row("m", "def total(", "def sum_of("), "pytest ended with"),  # the tests cannot even import it
        (row("m", "sum(numbers)", "1", "tests/nowhere.py"), "pytest ended with 4"),
        (row("m", "return sum(numbers)", "while True: pass"), "not done in 1 s"),
    ],
    ids=["collection", "no such test", "endless"],
)
def test_what_neither_catches_nor_misses_is_a_mistake_in_the_list(plant, mutant, verdict):
    status, samples = plant(mutant, arguments=["--limit", "1"] if "1 s" in verdict else [])
    assert status == 1
    assert samples["m"]["verdict"].startswith(verdict)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("m", "numbers)", "[])")], r"m: expected once, and found in utils/sums.py \(5\)"),
        ([row("m", "product(", "sum(")], "m: expected once, and found in no file"),
        ([row("m", "sum(", "max("), row("m", "sum(", "min(")], "twice, or changing nothing: m, m"),
        ([row("m", "sum(", "sum(")], "twice, or changing nothing: m"),
    ],
)
def test_a_list_that_cannot_be_right_is_an_error(plant, rows, message):
    with pytest.raises(ValueError, match=message):
        plant(*rows)


def test_a_snippet_is_found_wherever_its_file_was_moved(plant):
    (plant.root / "utils/moved").mkdir()
    (plant.root / "utils/sums.py").rename(plant.root / "utils/moved/sums.py")
    texts = mutants.sources(plant.root)
    assert mutants.place_of(mutants.Mutant("m", "", "len(numbers)", "1", ()), texts) == "utils/moved/sums.py"


def test_names_that_the_list_does_not_have_are_refused(plant, capsys):
    with pytest.raises(SystemExit):
        plant(row("m", "/ len(numbers)", "/ 1"), arguments=["n"])
    assert "list.toml has no n" in capsys.readouterr().err
