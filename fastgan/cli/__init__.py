"""The command line: `fastgan COMMAND ...`. Errors are one sentence and an exit code; --debug shows the traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from fastgan._util import env, log
from fastgan.cli.bench import bench
from fastgan.cli.compare import compare
from fastgan.cli.data import data, doctor
from fastgan.cli.eval import evaluate
from fastgan.cli.export import export
from fastgan.cli.models import models
from fastgan.cli.report import report
from fastgan.cli.run import run as run_model
from fastgan.cli.sample import sample
from fastgan.cli.train import presets, train
from fastgan.cli.upscale import upscale
from fastgan.errors import FastganError, UsageError


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `fastgan` script."""
    code = run(sys.argv[1:] if argv is None else argv)
    if env.read("WORLD_SIZE") not in ("", "1"):
        # Everything is written and the group has ended, but gloo's threads do not wait for Python's end: now and then a
        # rank aborted there ("terminate called without an active exception", torch 2.13).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code: 0, 1 for failure, 2 for usage, 130 when interrupted."""
    debug = "--debug" in argv or env.flag("FASTGAN_DEBUG")
    argv = [word for word in argv if word != "--debug"]
    try:
        with log.printing():
            return _dispatch(argv)
    except FastganError as error:
        if debug:
            raise
        return _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); python would complain again while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        text = str(error).strip().splitlines()
        return _fail(error, f"{text[0] if text else type(error).__name__} (run again with --debug to see where)", 1)


def _fail(error: Exception, sentence: str, code: int) -> int:
    # Of several processes that end together, one says why.
    if not getattr(error, "told", False):
        print(f"fastgan: {sentence}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("usage: fastgan COMMAND [options]      fastgan COMMAND --help\n")
        for name, (_, about) in COMMANDS.items():
            print(f"  {name:9} {about}")
        print("\n  --debug   show where an error comes from")
        return 0 if argv else 2
    if argv[0] == "--version":
        from fastgan import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {argv[0]!r}; {hint}")
    COMMANDS[argv[0]][0](argv[1:])
    return 0


COMMANDS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "train": (train, "train a generator: fastgan train [PRESET] [--data SOURCE] [--out DIR] [--resume] ..."),
    "sample": (sample, "make a grid of images: fastgan sample RUN|MODEL.onnx --n 64 --out grid.png"),
    "export": (
        export,
        "write a verified file for a runtime: fastgan export SOURCE [--to aoti] [--precision fp16] --out FILE",
    ),
    "upscale": (upscale, "enlarge an image, a folder of images or a video: fastgan upscale IN OUT [--model NAME|FILE]"),
    "run": (run_model, "pictures, a grid or a walk from an exported file: fastgan run MODEL.onnx --out walk.mp4"),
    "bench": (bench, "time models in every back-end: fastgan bench MODEL... [--batches 1,4] [--out CSV] [--plot SVG]"),
    "eval": (evaluate, "judge samples: fastgan eval RUN|MODEL.onnx|SOURCE --against DATA [--metrics fid,kid] ..."),
    "report": (report, "write a run's report.html anew and say where everything is: fastgan report RUN"),
    "compare": (compare, "put runs side by side on one page: fastgan compare RUN RUN... [--out compare.html]"),
    "data": (data, "image sets: fastgan data list | fetch NAME | info SOURCE"),
    "models": (models, "trained super-resolution networks: fastgan models [list] | fetch NAME"),
    "presets": (presets, "list the configurations that have names"),
    "doctor": (doctor, "say what runs where on this machine, what is missing, and what it costs"),
}
