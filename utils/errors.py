"""Errors meant for the person who runs a conversion.

Each message says what was expected, what was found and what to do next, with the path, key or parameter
at fault.
"""


def printable(text: str) -> str:
    """A stranger's text for a terminal, a log or a notebook: escapes, control characters and half ones are spelt out.

    A line's end is one of them: text in a line cannot make another line.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class ConversionError(ValueError):
    """Base of every error this project raises on purpose; its text is `printable`, in lines."""

    def __str__(self) -> str:
        return "\n".join(map(printable, super().__str__().split("\n")))


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
