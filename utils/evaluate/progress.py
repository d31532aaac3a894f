"""What a stopped evaluation leaves beside its output, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import EvaluationError
from utils.evaluate.figures import Tally
from utils.files import write_text

_FORMAT = 1  # raise it when counts of an older version are not to be gone on from


@dataclass
class Progress:
    """How far an evaluation is: `done` files, with what they came to; saved after every batch.

    binding: whatever the figures depend on, by name: model, data, settings. Progress of another binding is refused.
    """

    path: Path
    binding: Mapping[str, Any]
    done: int = 0
    tally: Tally = field(default_factory=Tally)
    corrupt: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path, binding: Mapping[str, Any]) -> Progress:
        """Goes on from the file, or starts where there is none.

        EvaluationError for a file that belongs to another evaluation, saying what differs, or is damaged.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path, binding)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read as progress: {error}. {_advice(path)}") from error
        found = saved.get("binding") if isinstance(saved, dict) else None
        if not isinstance(found, dict) or saved.get("format") != _FORMAT:
            raise EvaluationError(f"{path} is no progress file of this version. {_advice(path)}")
        names = [name for name in {**binding, **found} if found.get(name) != binding.get(name)]
        if names:
            differences = "\n".join(f"  {name}: then {found.get(name)}, now {binding.get(name)}" for name in names)
            raise EvaluationError(f"{path} is of an evaluation with other settings:\n{differences}\n{_advice(path)}")
        try:
            progress = cls(path, binding, tally=Tally.from_json(saved["tally"]))
            progress.done, progress.corrupt, progress.seconds = (saved[key] for key in ("done", "corrupt", "seconds"))
            if not isinstance(progress.corrupt, dict) or not isinstance(progress.seconds, float | int):
                raise ValueError("corrupt, seconds")
            if progress.done != progress.tally.images + len(progress.corrupt):
                raise ValueError("done")
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path} is damaged ({error}). {_advice(path)}") from error
        return progress

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        state = {
            "format": _FORMAT,
            "binding": dict(self.binding),
            "done": self.done,
            "tally": self.tally.to_json(),
            "corrupt": self.corrupt,
            "seconds": round(self.seconds, 3),
        }
        write_json(self.path, state)


def _advice(path: Path) -> str:
    return f"Remove {path.name} to start again, or choose another --output."


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all. EvaluationError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error}. Choose another --output.") from error
