"""Parses the words after `fastgan COMMAND` into a dataclass, by tyro.

A command is a function of the remaining words, with a dataclass of its options::

    @dataclass
    class _Report:
        \"\"\"Write a run's report.html again.\"\"\"  # the text of fastgan report --help

        run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
        \"\"\"run directory\"\"\"
        quality: int = 80
        \"\"\"from 1 to 100\"\"\"

    def report(argv: list[str]) -> None:
        options = parse(_Report, argv, "report")

A positional field without a default is required; a positional `tuple[Path, ...]` takes any number of words. Checks that
need more than a type raise UsageError in the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from fastgan._util import env, output
from fastgan.cli._habits import checked

#: The type of an option `class_`, which is --class to a user.
Class = Annotated[int | None, tyro.conf.arg(name="class")]


@dataclass
class Nothing:
    """No options."""


def parse(kind: type, argv: list[str], command: str, default: Any = None, usage: str = "") -> Any:
    """Parse words into a dataclass; `default` holds the values of options that are not given.

    Raises UsageError for an option of another program (see _habits.py). For other errors tyro prints its own help and
    sentences and raises SystemExit: 0 after --help, 2 after an error. Of several processes that torchrun starts, only
    rank 0 prints.
    """
    argv = checked(argv, kind, command)
    first = env.read("RANK") == "0"
    # Subcommands take no default: None would become one of them.
    given = {} if default is None else {"default": default}
    with output.colors():
        return tyro.cli(kind, args=argv, prog=f"fastgan {command}{usage}", console_outputs=first, **given)
