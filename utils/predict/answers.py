"""The table of answers: a row for each photograph, in parts until all are there, then one file.

A part gets its name when it is whole; the same run, begun again, does the ones that are left. Beside them lies what
they depend on, such as the model and the list of photographs: another run is refused.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import PackagingError, ParameterError
from utils.files import user_path, write_text, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".parquet", ".csv", ".jsonl")
METADATA = b"mixers"  # of a Parquet file: what the answers depend on, as JSON
Row = Mapping[str, Any]


def schema_of(output: str, units: int) -> pa.Schema:
    """The columns: `path`, then for "logits" the best classes, for "features" `units` numbers, then `error`."""
    import pyarrow as pa

    if output == "features":
        answers = [pa.field("features", pa.list_(pa.float32(), units))]
    else:
        kinds = {"classes": pa.int32(), "ids": pa.string(), "names": pa.string(), "probabilities": pa.float32()}
        answers = [pa.field(name, pa.list_(kind)) for name, kind in kinds.items()]
    return pa.schema([pa.field("path", pa.string()), *answers, pa.field("error", pa.string())])


class Parts:
    """Rows on their way into a file, in a folder beside it: `<output>.parts`."""

    def __init__(self, output: Path, schema: pa.Schema, binding: Mapping[str, Any]) -> None:
        """Finds what an earlier run left.

        Args:
            output: the file, which is not written here.
            schema: the columns.
            binding: what the rows depend on, by name, for JSON; also kept in the parts' metadata.

        Raises:
            ParameterError: the parts there are of another run.
            PackagingError: they are damaged, or nothing can be written.
        """
        self.schema = schema.with_metadata({METADATA: json.dumps(binding)})
        self.binding = binding
        self.folder = output.with_name(f"{output.name}.parts")
        record = self.folder / "run.json"
        if record.exists():
            self._require_same(record)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=not any(self.folder.glob("*")))
            write_text(record, json.dumps(binding, indent=2) + "\n")
        except OSError as error:
            raise PackagingError(f"{self.folder} cannot be made: {error.strerror}. Choose another --output.") from error

    def _require_same(self, record: Path) -> None:
        advice = f"Give the same command, choose another --output, or remove {self.folder}."
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            different = [key for key in {**found, **self.binding} if found.get(key) != self.binding.get(key)]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise PackagingError(f"{record} is damaged: {error}. {advice}") from error
        if different:
            raise ParameterError(f"{self.folder} is of a run with another {' and '.join(different)}. {advice}")

    def is_done(self, part: int) -> bool:
        """Whether that part, counted from 0, is there."""
        return self._path(part).is_file()

    def write(self, part: int, rows: Sequence[Row]) -> None:
        """Writes a part, whole or not at all; PackagingError where there is no room."""
        import pyarrow as pa
        from pyarrow import parquet

        with self.explained(), written_whole(self._path(part)) as file:
            parquet.write_table(pa.Table.from_pylist(list(rows), self.schema), file)

    def read(self, part: int, rows: int) -> pa.Table:
        """A part that is done, of so many rows; PackagingError if it is damaged, or of another run."""
        import pyarrow as pa
        from pyarrow import parquet

        path = self._path(part)
        try:
            table = parquet.read_table(path)
            table.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise PackagingError(f"{path} cannot be read: {error}. Remove it, and give the same command.") from error
        same = (table.schema.metadata or {}).get(METADATA) == self.schema.metadata[METADATA]
        if not same or not table.schema.equals(self.schema) or table.num_rows != rows:
            raise PackagingError(f"{path} is damaged, or of another run. Remove it, and give the same command.")
        return table

    def remove(self) -> None:
        """Removes the folder; what of it cannot be removed is no part of a run any more."""
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        with suppress(OSError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self.folder / f"{part:06}.parquet"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What cannot be written is a PackagingError that says how to go on."""
        try:
            yield
        except OSError as error:
            raise PackagingError(
                f"{self.folder}, or the file made of it, cannot be written: {error}. Make room, and give the same "
                "command: it goes on."
            ) from error


def check_output(output: str, overwrite: bool) -> Path:
    """The file's absolute path; ParameterError for another ending than `ENDINGS`, or a file that is there."""
    path = user_path(output).absolute()
    if path.suffix not in ENDINGS:
        raise ParameterError(f"--output {output}: expected a name that ends in {', '.join(ENDINGS)}.")
    if os.path.lexists(path) and not overwrite:
        raise ParameterError(f"--output {output} is there already. Choose another, or replace it: --overwrite.")
    return path


def put_together(parts: Parts, rows_in: Sequence[int], output: Path) -> int:
    """Writes all parts, of so many rows each, as `output`, and removes them; returns how many rows have an error."""
    from pyarrow import parquet

    errors = 0

    def read() -> Iterator[pa.Table]:
        nonlocal errors
        for part, rows in enumerate(rows_in):
            yield (table := parts.read(part, rows))
            errors += table.num_rows - table.column("error").null_count

    tables = read()
    with parts.explained(), written_whole(output) as file:
        if output.suffix == ".parquet":
            with parquet.ParquetWriter(file, parts.schema) as writer:
                for table in tables:
                    writer.write_table(table)
        else:
            for text in _texts(output.suffix, parts.schema.names, tables):
                file.write(text.encode())
    parts.remove()
    return errors


def read_answers(path: Path) -> tuple[dict[str, Any], Iterator[Row]]:
    """What the answers in a `.parquet` file of a classifier's depend on, and its rows. ParameterError for others."""
    import pyarrow as pa
    from pyarrow import parquet

    advice = "Expected a .parquet file of a classifier's answers, which utils.predict wrote."
    try:
        file = parquet.ParquetFile(path)
        binding = json.loads((file.schema_arrow.metadata or {}).get(METADATA, b"null"))
    except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
        raise ParameterError(f"{path} cannot be read: {error}. {advice}") from error
    versions = binding.get("versions") if isinstance(binding, dict) else None
    known = isinstance(versions, dict) and all(isinstance(each, str) for each in versions.values())
    if (
        not known
        or not isinstance(binding.get("batch_size"), int)
        or not file.schema_arrow.equals(schema_of("logits", 0))
    ):
        raise ParameterError(f"{path} is another file. {advice}")

    def rows() -> Iterator[Row]:
        try:
            for batch in file.iter_batches():
                batch.validate(full=True)
                yield from batch.to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ParameterError(f"{path} is damaged: {error}. {advice}") from error

    return binding, rows()


def _texts(ending: str, names: Sequence[str], tables: Iterable[pa.Table]) -> Iterator[str]:
    """A header, for CSV, and the rows of each part. In CSV a list is JSON, and nothing is an empty cell."""
    if ending == ".csv":
        yield _csv([names])
    for table in tables:
        rows = table.to_pylist()
        if ending == ".jsonl":
            yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            yield _csv([_cell(row[name]) for name in names] for row in rows)


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
