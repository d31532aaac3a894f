"""The table of answers: a row for each photograph, in parts until all are there, then one file.

A part gets its name when it is whole; the same run, begun again, goes on after the last one. Beside them
lies what they belong to, the model and the list of photographs: another run is refused.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import PackagingError, ParameterError
from utils.files import write_text, written_whole

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".parquet", ".csv", ".jsonl")
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


class Answers:
    """Rows on their way into `output`, by way of `<output>.parts/`."""

    def __init__(self, output: str, schema: pa.Schema, binding: Mapping[str, Any], overwrite: bool) -> None:
        """Finds what an earlier run left.

        Args:
            output: a path that ends in one of `ENDINGS`.
            schema: as of `schema_of`.
            binding: what the answers depend on, by name, for JSON.
            overwrite: let the result take the place of a file that is there.

        Raises:
            ParameterError: for another ending, a file that is there, or parts of another run.
            PackagingError: where nothing can be written.
        """
        self.output, self._schema = Path(output).expanduser().absolute(), schema
        if self.output.suffix not in ENDINGS:
            raise ParameterError(f"--output {output}: expected a name that ends in {', '.join(ENDINGS)}.")
        if os.path.lexists(self.output) and not overwrite:
            raise ParameterError(f"--output {output} is there already. Choose another, or replace it: --overwrite.")
        self.parts = self.output.with_name(f"{self.output.name}.parts")
        record = self.parts / "run.json"
        if record.exists():
            self._require_same(record, binding)
            return
        try:
            self.parts.mkdir(parents=True)
            write_text(record, json.dumps(binding, indent=2) + "\n")
        except OSError as error:
            raise PackagingError(f"{self.parts} cannot be made: {error.strerror}. Choose another --output.") from error

    def _require_same(self, record: Path, binding: Mapping[str, Any]) -> None:
        advice = f"Give the same command, choose another --output, or remove {self.parts}."
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
            different = [key for key in {**found, **binding} if found.get(key) != binding.get(key)]
        except (OSError, ValueError, TypeError) as error:
            raise PackagingError(f"{record} is damaged: {error}. {advice}") from error
        if different:
            raise ParameterError(f"{self.parts} is of a run with another {' and '.join(different)}. {advice}")

    def is_done(self, part: int) -> bool:
        """Whether that part, counted from 0, is there."""
        return self._part(part).is_file()

    def write(self, part: int, rows: Sequence[Row]) -> None:
        """Writes a part, whole or not at all; PackagingError where there is no room."""
        import pyarrow as pa
        from pyarrow import parquet

        with self._explained(), written_whole(self._part(part)) as file:
            parquet.write_table(pa.Table.from_pylist(list(rows), self._schema), file)

    def finish(self, count: int) -> int:
        """Puts the first `count` parts together as `output`, and removes them; returns how many rows have an error."""
        from pyarrow import parquet

        errors = 0

        def read() -> Iterator[pa.Table]:
            nonlocal errors
            for part in range(count):
                yield (table := self._read(part))
                errors += table.num_rows - table.column("error").null_count

        tables = read()
        with self._explained(), written_whole(self.output) as file:
            if self.output.suffix == ".parquet":
                with parquet.ParquetWriter(file, self._schema) as writer:
                    for table in tables:
                        writer.write_table(table)
            else:
                for text in _texts(self.output.suffix, self._schema.names, tables):
                    file.write(text.encode())
        shutil.rmtree(self.parts)
        return errors

    def _part(self, part: int) -> Path:
        return self.parts / f"{part:06}.parquet"

    def _read(self, part: int) -> pa.Table:
        import pyarrow as pa
        from pyarrow import parquet

        path = self._part(part)
        try:
            return parquet.read_table(path, schema=self._schema)
        except (pa.ArrowException, OSError) as error:
            raise PackagingError(f"{path} cannot be read: {error}. Remove it, and give the same command.") from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PackagingError(
                f"{self.parts}, or the file made of it, cannot be written: {error}. Make room, and give the same "
                "command: it goes on."
            ) from error


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
