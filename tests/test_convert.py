"""The command around a conversion notebook, with small real notebooks in place of the conversion."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest
import tiny

from utils import convert
from utils.artefact.staging import Published
from utils.checkpoints import loading
from utils.checkpoints.download import Checkpoint
from utils.errors import CheckpointError, ConversionError, ParameterError
from utils.families.variants import get_variant
from utils.parity.judge import Row
from utils.parity.report import Report
from utils.settings import Settings

REPORT = Report([Row("logits", "noise", 3, 1e-6, 3.5e-7, 1e-7, 1.0, 1.0, 1e-5, True)])
PARAMETERS = """\
variant = "convmixer_768_32"  #@param
head = "classification"  #@param
checkpoint = "official"  #@param
image_size = "auto"  #@param
output_dir = "exports"  #@param
seed = 0  #@param"""
WRITES_ARTEFACTS = f"""\
import json, pathlib
out = pathlib.Path(output_dir)
name = f"{{variant}}_{{head}}" + ("_synthetic" if checkpoint == "synthetic" else "")
(out / name).mkdir(parents=True)
(out / f"{{name}}.tar.gz").write_bytes(b"tar")
seen = dict(variant=variant, head=head, checkpoint=checkpoint, image_size=image_size, seed=seed)
manifest = dict(weights=checkpoint, seen=seen, parity={REPORT.to_json()!r})
(out / f"{{name}}.json").write_text(json.dumps(manifest))"""


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Puts a notebook with this code where the command looks for conversion_convmixer.ipynb."""
    monkeypatch.setattr(convert, "ROOT", tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def write(code):
        tagged = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        cells = [tagged, nbformat.v4.new_code_cell(code)]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(made, tmp_path / "conversion_convmixer.ipynb")

    return write


def run(output_dir, *options):
    return convert.main(["--variant", "convmixer_tiny", "--output-dir", str(output_dir), *options])


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_success_leaves_the_executed_notebook_and_prints_where_everything_is(notebook, tmp_path, capfd, monkeypatch):
    notebook(WRITES_ARTEFACTS)
    monkeypatch.chdir(tmp_path)  # a relative folder is the caller's, wherever the notebook runs
    assert run("out", "--checkpoint", "synthetic", "--head", "fe", "--seed", "7") == 0
    name = "convmixer_tiny_fe_synthetic"
    assert left_in(tmp_path / "out") == [name, f"{name}.ipynb", f"{name}.json", f"{name}.tar.gz"]
    executed = nbformat.read(tmp_path / "out" / f"{name}.ipynb", as_version=4)
    assert all(cell.execution_count for cell in executed.cells)
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["seen"] == {
        "variant": "convmixer_tiny", "head": "fe", "checkpoint": "synthetic", "image_size": "auto", "seed": 7,
    }  # fmt: skip
    printed, said = capfd.readouterr()
    assert "IPKernelApp" not in said  # the kernel's own log is no news
    made = [str(tmp_path / "out" / each) for each in (name, f"{name}.tar.gz", f"{name}.json", f"{name}.ipynb")]
    for shown in (*made, "3.5e-07", "Passed: ", "SYNTHETIC"):
        assert shown in printed
    assert left_in(tmp_path / "tmp") == []


def test_files_reach_the_notebook_as_absolute_paths_and_defaults_stay_its_own(notebook, tmp_path, monkeypatch):
    notebook("pass")
    shutil.copyfile(tiny.GOLDEN / "convmixer_tiny.timm.pth.tar", tmp_path / "own.pth")
    (tmp_path / "own.txt").write_text("cat\ndog\n" * 5)
    monkeypatch.chdir(tmp_path)
    executed = Mock(side_effect=ConversionError)
    monkeypatch.setattr(convert.execution, "executed", executed)
    assert run("out", "--checkpoint", "own.pth", "--labels", "own.txt", "--epsilon", "0.001") == 1
    own = {"checkpoint": str(tmp_path / "own.pth"), "labels": str(tmp_path / "own.txt"), "epsilon": 0.001}
    _, given, _ = executed.call_args.args
    assert given == own | {"variant": "convmixer_tiny", "output_dir": str(tmp_path / "out")}


def test_our_own_error_is_one_message_and_leaves_no_file(notebook, tmp_path, capsys):
    notebook("class ParityError(ValueError): pass\nraise ParityError('logits differ by 0.5')")
    assert run(tmp_path / "out", "--checkpoint", "synthetic") == 1
    said = capsys.readouterr().err
    assert "error: logits differ by 0.5\n" in said
    assert "Traceback" not in said
    kept = Path(said.split("as far as it got: ")[1].strip())
    assert "logits differ" in kept.read_text()
    assert left_in(tmp_path / "out") == []


def test_any_other_error_is_named_by_its_kind(notebook, tmp_path, capsys):
    assert run(tmp_path / "out", "--checkpoint", "synthetic") == 1
    assert "conversion_convmixer.ipynb is not there" in capsys.readouterr().err
    notebook("{}['missing']")
    assert run(tmp_path / "out", "--checkpoint", "synthetic") == 1
    assert "error: KeyError: 'missing'\n" in capsys.readouterr().err
    assert left_in(tmp_path / "out") == []


def test_a_notebook_that_wrote_nothing_has_failed(notebook, tmp_path, capsys, monkeypatch):
    notebook("pass")
    monkeypatch.setattr(convert.execution, "executed", lambda *_: nullcontext())
    assert run(tmp_path / "out", "--checkpoint", "synthetic") == 1
    assert "did not write" in capsys.readouterr().err


def test_interrupt_reaches_the_cell_and_leaves_nothing(notebook, tmp_path):
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    notebook(
        "import pathlib, time\ntry:\n"
        f"    pathlib.Path({str(started)!r}).touch()\n    time.sleep(900)\n"
        f"finally:\n    pathlib.Path({str(cleaned)!r}).touch()"
    )
    code = (
        "import sys, pathlib; from utils import convert; convert.ROOT = pathlib.Path(sys.argv[1]);"
        "sys.exit(convert.main(sys.argv[2:]))"
    )
    options = ["--variant", "convmixer_tiny", "--checkpoint", "synthetic", "--output-dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), *options],
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300  # a kernel starts in seconds, or in minutes on a busy machine
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()  # as an interrupt is
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130
    assert cleaned.exists()
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert left_in(tmp_path / "out") == left_in(tmp_path / "tmp") == []


@pytest.fixture
def resolve(monkeypatch):
    """Stands for the download: succeeds, unless it is given an error."""
    fetched = Mock()
    monkeypatch.setattr(loading, "resolve", fetched)
    return fetched


ROW = get_variant("convmixer_768_32")


def test_auto_is_official_where_it_can_be_had_and_else_loudly_synthetic(resolve, capsys):
    resolve.return_value = Checkpoint(Path("a"), "official", "https://example.org/a", "ab" * 32)
    assert convert.choose_checkpoint(ROW, "auto", 0) == "official"
    resolve.assert_called_once_with(ROW, "auto", 0)
    assert capsys.readouterr().err == ""
    resolve.return_value = Checkpoint(Path("a"), "synthetic", None, "ab" * 32, "the host did not answer")
    assert convert.choose_checkpoint(ROW, "auto", 0) == "synthetic"
    said = capsys.readouterr().err
    assert "SYNTHETIC WEIGHTS for convmixer_768_32" in said
    assert "the host did not answer" in said
    assert len(said.strip().splitlines()) > 4


def test_auto_never_takes_other_weights_for_a_damaged_download(notebook, resolve, tmp_path, capsys):
    notebook("pass")
    resolve.side_effect = CheckpointError("SHA-256 is 12, 34 was recorded")
    assert convert.main(["--variant", "convmixer_768_32", "--output-dir", str(tmp_path / "out")]) == 1
    assert "error: SHA-256 is 12, 34 was recorded" in capsys.readouterr().err
    assert left_in(tmp_path / "out") == []


def test_wrong_parameter_stops_before_any_download(notebook, resolve, tmp_path):
    notebook("pass")
    with pytest.raises(ParameterError, match="use_ema is True"):
        convert.run_notebook(Settings("convmixer_768_32", output_dir=str(tmp_path / "out"), use_ema=True))
    resolve.assert_not_called()
    assert left_in(tmp_path / "out") == []


def test_what_the_notebook_shows_in_red_is_printed_and_nothing_in_it_controls_the_terminal(tmp_path):
    made = Published(*(tmp_path / name for name in ("x", "x.tar.gz", "x.json")))
    made.tarball.write_bytes(b"tar")
    notes = ["the moving average in `state_dict_ema` is left out", "unused: \x1b[2J"]
    made.manifest.write_text(json.dumps({"weights": "official", "parity": REPORT.to_json(), "notes": notes}))
    shown = convert.summary(made)
    assert notes[0] in shown
    assert "unused: \\x1b[2J" in shown


def test_an_interrupt_after_publishing_says_that_it_is_published(tmp_path):
    made = Published(tmp_path / "a", tmp_path / "a.tar.gz", tmp_path / "a.json")

    def interrupted(before):
        with pytest.raises(KeyboardInterrupt) as caught, convert._telling_of(made, before):
            raise KeyboardInterrupt
        return str(caught.value)

    assert interrupted(None) == ""
    made.manifest.touch()
    assert "published" in interrupted(None)
    assert interrupted(made.manifest.stat().st_mtime_ns) == ""  # an earlier one's
