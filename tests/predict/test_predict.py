"""Tables of answers: rows, formats, resuming, and what is refused."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from labelled import store_tfds
from PIL import Image

from utils.errors import PackagingError, ParameterError
from utils.families.variants import get_variant
from utils.images.labels import Label
from utils.images.photographs import SAMPLES, load_image, pillow_preprocess
from utils.predict import command, run as running
from utils.predict.command import predict

PREPROCESSING = get_variant("convmixer_tiny").preprocessing
CLASSES = ("red", "green", "blue", "none")


def coloured(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 50), colour).save(path)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Seven files in two folders, one of them corrupt; the working folder is that which holds them."""
    monkeypatch.chdir(tmp_path)
    for index, colour in enumerate(("red", "lime", "blue", "red", "lime", "blue")):
        coloured(tmp_path / "photos" / "ab"[index % 2] / f"{index}.png", colour)
    (tmp_path / "photos" / "a" / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "film.mov").touch()
    return tmp_path / "photos"


def of_colours(inputs):
    """Logits: how red, green and blue an image is, and 0."""
    return np.concatenate([inputs.mean(axis=(1, 2)), np.zeros((len(inputs), 1), np.float32)], axis=1)


@pytest.fixture
def loaded(monkeypatch):
    """The model that every path stands for: a classifier of colours; notes the batches that it gets."""
    opened = SimpleNamespace(
        **{"name": "colours", "output": "logits", "units": 4, "weights": "custom", "preprocessing": PREPROCESSING},
        **{"names": CLASSES, "labels": [Label(f"n{i}", name) for i, name in enumerate(CLASSES)]},
    )
    found = SimpleNamespace(
        opened=opened, sha256="a", runtime="NumPy", run=lambda x: batches.append(x.shape) or of_colours(x), batches=[]
    )
    batches = found.batches
    monkeypatch.setattr(running, "load_model", lambda _: found)
    return found


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_each_photograph_has_a_row_in_order_of_its_path(photographs, loaded):
    said = predict("m", ["photos"], "out.parquet", top_k=2, batch_size=4)
    rows = rows_of("out.parquet")
    paths = sorted(
        f"photos/{path}" for path in ("a/0.png", "a/2.png", "a/4.png", "a/bad.jpg", "b/1.png", "b/3.png", "b/5.png")
    )
    assert [row["path"] for row in rows] == paths
    by_path = {row["path"]: row for row in rows}
    assert by_path["photos/a/0.png"]["names"][0] == "red"
    assert by_path["photos/b/1.png"]["ids"][0] == "n1"
    logits = of_colours(pillow_preprocess(load_image(photographs / "a/0.png"), PREPROCESSING)[None])[0].astype(float)
    expected = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1][:2]
    np.testing.assert_allclose(by_path["photos/a/0.png"]["probabilities"], expected, rtol=1e-6)
    assert "bad.jpg" in by_path["photos/a/bad.jpg"]["error"]
    assert by_path["photos/a/bad.jpg"]["classes"] is None
    assert "7 rows, 1 of them with an error" in said
    assert "1 .mov" in said
    assert {shape[0] for shape in loaded.batches} == {4}  # the last one filled up


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_text_formats_have_what_parquet_has(photographs, loaded, ending):
    predict("m", ["photos"], "out.parquet")
    predict("m", ["photos"], f"out.{ending}")
    text = (photographs.parent / f"out.{ending}").read_text("utf-8")
    if ending == "csv":
        found = [
            {key: json.loads(cell) if cell.startswith("[") else cell or None for key, cell in row.items()}
            for row in csv.DictReader(text.splitlines())
        ]
    else:
        found = [json.loads(line) for line in text.splitlines()]
    assert found == rows_of("out.parquet")


def test_features_are_columns_of_a_fixed_size_and_what_is_not_finite_is_an_error(photographs, loaded):
    loaded.opened.output, loaded.opened.units = "features", 4
    loaded.run = lambda inputs: np.where(of_colours(inputs) > 2.3, np.nan, of_colours(inputs))
    predict("m", ["photos"], "out.parquet")
    table = pq.read_table("out.parquet")
    assert table.schema.field("features").type.list_size == 4
    by_path = {row["path"]: row for row in table.to_pylist()}
    assert "NaN" in by_path["photos/b/1.png"]["error"]  # ImageNet's statistics: green reaches 2.4, red 2.2
    assert len(by_path["photos/a/0.png"]["features"]) == 4


def test_lists_zip_files_and_repeated_names(photographs, loaded, tmp_path):
    import zipfile

    with zipfile.ZipFile("some.zip", "w") as archive:
        archive.write("photos/a/0.png", "a/0.png")
        archive.write("photos/b/1.png", "b/1.png")
    (tmp_path / "list.txt").write_text("photos/a/0.png\n\nphotos/gone.png\n", encoding="utf-8")
    predict("m", ["list.txt", "photos/a/0.png", "some.zip"], "out.parquet")
    rows = rows_of("out.parquet")
    assert [row["path"] for row in rows] == [
        *("photos/a/0.png", "photos/gone.png", "some.zip/a/0.png", "some.zip/b/1.png"),
    ]
    assert "cannot be read" in rows[1]["error"]


def test_a_data_set_of_tfds_is_read_as_its_files(tmp_path, loaded, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = [(np.full((50, 60, 3), level, np.uint8), 0) for level in (10, 200)]
    store_tfds(tmp_path / "data", "shades", "1.0.0", ["all"], {"test": images})
    predict("m", ["shades"], "out.parquet", data_dir=str(tmp_path / "data"))
    assert len(rows_of("out.parquet")) == 2


def test_a_stopped_run_goes_on_and_another_is_refused(photographs, loaded, monkeypatch):
    predict("m", ["photos"], "whole.parquet", batch_size=2)
    run, calls = loaded.run, []

    def stopping(inputs):
        calls.append(len(inputs))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(inputs)

    loaded.run = stopping
    with pytest.raises(KeyboardInterrupt):
        predict("m", ["photos"], "out.parquet", batch_size=2, part=3)
    assert sorted(path.name for path in photographs.parent.glob("out.parquet.parts/*.parquet")) == ["000000.parquet"]
    loaded.sha256 = "b"
    with pytest.raises(ParameterError, match="another model"):
        predict("m", ["photos"], "out.parquet", batch_size=2, part=3)
    loaded.sha256, loaded.runtime = "a", "another"
    with pytest.raises(ParameterError, match="another versions"):
        predict("m", ["photos"], "out.parquet", batch_size=2, part=3)
    loaded.runtime = "NumPy"
    for changed in ({"top_k": 2}, {"batch_size": 3}, {"part": 4}):
        with pytest.raises(ParameterError, match=f"another {next(iter(changed))}"):
            predict("m", ["photos"], "out.parquet", **{"batch_size": 2, "part": 3} | changed)
    coloured(photographs / "new.png", "red")
    with pytest.raises(ParameterError, match="another list of photographs"):
        predict("m", ["photos"], "out.parquet", batch_size=2, part=3)
    (photographs / "new.png").unlink()
    done = len(calls)
    predict("m", ["photos"], "out.parquet", batch_size=2, part=3)
    assert len(calls) - done == 3  # of the two parts that were left: two batches and one
    assert rows_of("out.parquet") == rows_of("whole.parquet")
    assert not (photographs.parent / "out.parquet.parts").exists()


@pytest.mark.parametrize("damage", ["cut", "short", "foreign"])
def test_a_part_that_is_not_this_run_s_is_named(photographs, loaded, monkeypatch, damage):
    with monkeypatch.context() as patch:
        patch.setattr("utils.predict.answers.put_together", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict("m", ["photos"], "out.parquet", part=4)
    path = photographs.parent / "out.parquet.parts" / "000000.parquet"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        table = pq.read_table(path)
        pq.write_table(table.slice(0, 3) if damage == "short" else table.replace_schema_metadata({}), path)
    with pytest.raises(PackagingError, match=r"000000\.parquet .* Remove it"):
        predict("m", ["photos"], "out.parquet", part=4)


@pytest.mark.parametrize(
    ("images", "output", "said"),
    [
        (["nowhere.jpg"], "out.parquet", "no such file"),
        (["empty"], "out.parquet", "no photograph"),
        (["photos"], "out.xlsx", r"\.parquet, \.csv, \.jsonl"),
        (["photos"], "there.csv", "--overwrite"),
        (["bytes.txt"], "out.csv", "UTF-8"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(photographs, loaded, images, output, said):
    folder = photographs.parent
    (folder / "empty").mkdir()
    (folder / "there.csv").write_text("mine")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ParameterError, match=said):
        predict("m", images, output)
    assert not list(folder.glob("*.parts"))
    assert (folder / "there.csv").read_text() == "mine"


def test_a_full_disk_leaves_the_parts_that_are_whole(photographs, loaded, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    write = pq.write_table
    with monkeypatch.context() as patched:
        patched.setattr(
            pq,
            "write_table",
            lambda table, file: write(table, file) if table["path"][0].as_py() < "photos/b" else full(),
        )
        with pytest.raises(PackagingError, match="No space"):
            predict("m", ["photos"], "out.csv", part=4)
    predict("m", ["photos"], "out.csv", part=4)
    assert len((photographs.parent / "out.csv").read_text().splitlines()) == 8


@pytest.mark.slow
def test_every_format_gives_the_answers_of_the_saved_model(tmp_path, monkeypatch):
    from utils.conversion import convert
    from utils.smaller.command import make_smaller

    made = convert(
        "convmixer_tiny", checkpoint="synthetic", output_dir=str(tmp_path), formats="saved_model, keras, onnx"
    )
    lite = make_smaller(made.folder, "tflite-float32")
    beside = [made.folder.parent / f"{made.folder.name}.{ending}" for ending in ("tar.gz", "keras", "onnx")]
    found = {}
    for path in (made.folder, *beside, lite):
        given = [str(path), str(SAMPLES), "--output", str(tmp_path / "out.parquet"), "--overwrite"]
        assert command.main(given) == 0
        found[path.name] = rows_of(tmp_path / "out.parquet")
    expected = found.pop(made.folder.name)
    assert [row["path"].rpartition("/")[2] for row in expected] == ["chelsea.jpg", "coffee.jpg", "rocket.jpg"]
    for rows in found.values():
        for row, right in zip(rows, expected, strict=True):
            assert row["classes"] == right["classes"]
            np.testing.assert_allclose(row["probabilities"], right["probabilities"], atol=1e-5)
