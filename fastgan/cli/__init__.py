"""The command line: `fastgan COMMAND ...`. An error is one sentence and an exit code; --debug shows the traceback."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys

from fastgan._util import env, log, output
from fastgan._util.options import as_flags
from fastgan.errors import FastganError, UsageError

#: Each command's module, its function of the remaining words, and what the command does. A command's module is imported
#: when it is called, and is no tyro subcommand: `fastgan upscale` must import neither torch nor fastgan.data nor
#: fastgan.train, and tyro needs the dataclasses of all subcommands, Config among them, before it can parse one. No
#: module may have the name of a function of this one: importing it would replace the function.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "train": (
        "fastgan.cli.train", "train",
        "train a generator: fastgan train [PRESET] [--data SOURCE] [--out DIR] [--resume RUN] ...",
    ),
    "sample": (
        "fastgan.cli.sample", "sample",
        "write a grid of generated images: fastgan sample RUN|MODEL.onnx --n 64 --out grid.png",
    ),
    "export": (
        "fastgan.cli.export", "export",
        "write a verified file for a runtime: fastgan export SOURCE [--to aoti] [--precision fp16] --out FILE",
    ),
    "upscale": (
        "fastgan.cli.upscale", "upscale",
        "enlarge an image, a folder of images or a video: fastgan upscale IN OUT [--model NAME|FILE]",
    ),
    "translate": (
        "fastgan.cli.translate", "translate",
        "make pictures from pictures with CycleGAN, pix2pix, ...: fastgan translate MODEL IN OUT [--size N]",
    ),
    "run": (
        "fastgan.cli.run_model", "run",
        "images, a grid or a latent walk from an exported file: fastgan run MODEL.onnx --out walk.mp4",
    ),
    "bench": (
        "fastgan.cli.bench", "bench",
        "time models, or a training step: fastgan bench MODEL... [--batches 1,4] [--out CSV] | step FILE:FUNCTION",
    ),
    "profile": (
        "fastgan.cli.profile", "profile",
        "sum the time of a training step by operation: fastgan profile FILE:FUNCTION [--trace FILE]",
    ),
    "project": (
        "fastgan.cli.project", "project",
        "find the style with which a generator makes a picture: fastgan project RUN|FILE IMAGE [--out w.safetensors]",
    ),
    "edit": (
        "fastgan.cli.edit", "edit",
        "move an image along directions of its style: fastgan edit RUN|FILE [--image SEED|FILE] [--method pca]",
    ),
    "eval": (
        "fastgan.cli.eval", "evaluate",
        "compute FID, KID and other metrics: fastgan eval RUN|MODEL.onnx|SOURCE --against DATA [--metrics fid,kid] ...",
    ),
    "augment": (
        "fastgan.cli.augment", "augment",
        "enlarge a labeled set by filtered images of a run: fastgan augment RUN --data LABELED --out DIR --per-class N",
    ),
    "report": (
        "fastgan.cli.report", "report",
        "write report.html of a run again and list the files: fastgan report RUN",
    ),
    "compare": (
        "fastgan.cli.compare", "compare",
        "compare runs on one page: fastgan compare RUN RUN... [--out compare.html]",
    ),
    "data": ("fastgan.cli.data", "data", "image sets: fastgan data list | fetch NAME | info SOURCE"),
    "models": ("fastgan.cli.models", "models", "trained super-resolution networks: fastgan models [list] | fetch NAME"),
    "inspect": (
        "fastgan.cli.inspect_file", "inspect",
        "say what a file contains, a public checkpoint among others: fastgan inspect FILE",
    ),
    "presets": ("fastgan.cli.train", "presets", "list the named configurations"),
    "doctor": ("fastgan.cli.data", "doctor", "list the back-ends available on this computer, and why others are not"),
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `fastgan` script."""
    output.install()
    code = run(sys.argv[1:] if argv is None else argv)
    if error := output.lost():
        # The work is done nevertheless. A reader that has ended, as `| head` does, wants no message.
        if error.errno != errno.EPIPE:
            print(f"fastgan: not all of the output could be written: {error.strerror or error}", file=sys.stderr)
        code = code or 1
    if env.read("WORLD_SIZE") not in ("", "1"):
        # All files are written and the process group is destroyed, but gloo's threads do not wait for Python's exit:
        # now and then a rank aborted there ("terminate called without an active exception", torch 2.13).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code: 0, 1 for failure, 2 for a usage error, 130 when interrupted."""
    debug = "--debug" in argv or env.flag("FASTGAN_DEBUG")
    argv = [word for word in argv if word != "--debug"]
    try:
        with log.printing(), as_flags():
            return _dispatch(argv)
    except SystemExit as end:
        # tyro has printed its help (0) or its error (2).
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except FastganError as error:
        if debug:
            raise
        return _fail(error, str(error), error.exit_code)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            raise
        text = str(error).strip().splitlines()
        return _fail(error, f"{text[0] if text else type(error).__name__} (run again with --debug to see where)", 1)


def _fail(error: Exception, sentence: str, code: int) -> int:
    # Of several processes that fail together, one prints the reason.
    if not getattr(error, "reported", False):
        print(f"fastgan: {output.printable(sentence, lines=True)}", file=sys.stderr)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print("usage: fastgan COMMAND [options]      fastgan COMMAND --help\n")
        for name, (_, _, about) in COMMANDS.items():
            print(f"  {name:9} {about}")
        print("\n  --debug   show the traceback of an error")
        return 0 if argv else 2
    if argv[0] == "--version":
        from fastgan import __version__

        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {argv[0]!r}; {hint}")
    module, function, _ = COMMANDS[argv[0]]
    getattr(importlib.import_module(module), function)(argv[1:])
    return 0
