"""The exceptions of lvs. Wrong types of arguments are TypeError, as everywhere in Python."""

from collections.abc import Iterable
from typing import NamedTuple


class RuleProblem(NamedTuple):
    """One thing that is wrong with the text given to Director.restore()."""

    line: int
    """Line number from 1."""
    column: int | None
    """Where the wrong word begins, in characters from 1; None when the line as a whole cannot be carried out."""
    message: str
    """What is wrong."""
    expected: str | None
    """What would be right, where there is such a thing."""


class LvsError(Exception):
    """What all exceptions of lvs derive from."""


class ArgumentError(ValueError, LvsError):
    """An argument has a value that cannot be: an unknown switch, a negative time, what is no address."""


class RuleError(ValueError, LvsError):
    """Rules that cannot be read or carried out; none of them was."""

    errors: tuple[RuleProblem, ...]
    """All that is wrong, in the order of the text."""

    def __init__(
        self, message: str, errors: Iterable[tuple[int, int | None, str, str | None]]
    ) -> None:
        problems = tuple(RuleProblem(*error) for error in errors)
        super().__init__(message, problems)
        self.errors = problems

    def __str__(self) -> str:
        return str(self.args[0])
