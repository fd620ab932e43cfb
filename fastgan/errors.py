"""The errors a user can act on. The command line prints their text in one line and exits with their code."""


class FastganError(Exception):
    """Something went wrong while doing what was asked (exit code 1)."""

    exit_code = 1
    #: Set where several processes run as one: whether another of them prints an error already.
    reported: bool


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


class CollapseError(FastganError):
    """A run was stopped because it collapsed or diverged, as `on_collapse` asked."""


class ForcedBackendError(FastganError, RuntimeError):
    """The back-end that FASTGAN_BACKEND forces cannot run an operation."""


class RankError(FastganError):
    """One of the processes that train together has gone, or does not answer."""

    def __init__(self, sentence: str, cause: str):
        super().__init__(sentence, cause)
        #: What only the caller knows, as further words of the sentence: when it was, and what can be done.
        self.when = self.then = ""

    def __str__(self) -> str:
        sentence, cause = self.args
        return f"{sentence}{self.when} ({cause}){self.then}"


class ExportError(FastganError):
    """An export failed, or its result does not equal the network it came from."""


class BackendError(FastganError):
    """A back-end cannot open or run a model that it should."""


def first_line(error: BaseException) -> str:
    """What an error says in a line of at most 300 printable characters; the name of its class if it says nothing.

    Some libraries append a stack, or quote what is in a damaged file.
    """
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    return printable if len(printable) <= 300 else f"{printable[:300]}..."
