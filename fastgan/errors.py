"""The errors a user can act on. The command line prints their text in one line and exits with their code."""


class FastganError(Exception):
    """Something went wrong while doing what was asked (exit code 1)."""

    exit_code = 1


class UsageError(FastganError):
    """What was asked cannot be done as asked: names the argument, what was expected and what came (exit code 2)."""

    exit_code = 2


class DataError(FastganError):
    """A data source cannot be read, or does not fit what is asked of it."""


class CheckpointError(FastganError):
    """A checkpoint is damaged, or belongs to another network."""


class WriteError(FastganError, OSError):
    """A file of a run could not be written: names it, the reason, and what is free on its disk."""


class NonFiniteError(FastganError):
    """A loss became NaN or infinite."""


class ExportError(FastganError):
    """An export failed, or its result does not equal the network it came from."""
