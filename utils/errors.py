"""Errors meant for the person who runs a conversion.

Each message says what was expected, what was found and what to do next, with the path, key or parameter
at fault.
"""

from utils.text import printed_lines


class ConversionError(ValueError):
    """Base of every error this project raises on purpose; its text controls no terminal, whatever a file told."""

    def __str__(self) -> str:
        return printed_lines(super().__str__())


class CheckpointError(ConversionError):
    """A checkpoint file is missing, damaged, unsafe, or not the variant's."""


class CheckpointUnavailable(CheckpointError):
    """The official checkpoint could not be fetched: host unreachable or an HTTP error."""


class ParameterError(ConversionError):
    """A notebook or function parameter is unknown or impossible."""


class ParityError(ConversionError):
    """The exported model does not compute what its source computes."""


class PackagingError(ConversionError):
    """An artefact could not be written, verified, extracted or published."""


class EvaluationError(ConversionError):
    """An evaluation's data, or what an earlier run of it left, does not allow it."""
