"""Opens mutated files of one kind, each in a forked process with limits on time and memory. Prints a line of JSON each.

python child.py KIND FOLDER FIRST COUNT
"""

import contextlib
import importlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from random import Random

#: Of one input: seconds of the CPU and of the clock, and bytes beyond those of the process that it was forked from.
SECONDS, CLOCK, MEMORY = 30, 90, 3 << 29
#: A refusal may not have taken more than this either, bytes.
RESIDENT = 700 << 20


def outcome(open_, path: Path) -> tuple[str, str]:
    """("handled" | "refused" | "raw" | "memory", a sentence)."""
    from fastgan.errors import FastganError

    try:
        open_(path)
        found = "handled", ""
    except FastganError as error:
        text = str(error)
        found = (
            ("refused", text) if "\n" not in text and len(text) < 2000 else ("raw", f"not a sentence: {text!r:.300}")
        )
        # libav asks for what a header states and takes the refusal; none of it was touched.
        by_libav = text.endswith("cannot be read: Cannot allocate memory")
        if not by_libav and ("allocate" in text or isinstance(error.__cause__, MemoryError)):
            found = "memory", text
    except SystemExit as end:
        found = "refused" if end.code == 2 else "raw", f"exit {end.code}"
    except MemoryError:
        found = "memory", traceback.format_exc()[-1500:]
    except BaseException as error:
        found = (
            "memory" if "allocate" in str(error) else "raw",
            f"{type(error).__name__}: {error!s:.200}\n" + traceback.format_exc()[-1500:],
        )
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return ("memory", f"{used >> 20} MB resident, {found}") if used > RESIDENT + BASE else found


def _limited(open_, path: Path, pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_virtual() + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(path.parent)
    os.environ["FASTGAN_CACHE"] = str(path.parent / "cache")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    if "FASTGAN_FUZZ_STDERR" not in os.environ:
        os.dup2(silent, 2)
    text = json.dumps(outcome(open_, path)).encode()
    os.write(pipe, text[:60_000])


def attempt(open_, path: Path) -> tuple[str, str]:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(read)
            os.setpgid(0, 0)
            _limited(open_, path, write)
        os._exit(0)
    os.close(write)
    end, text, hangs = time.monotonic() + CLOCK, b"", True
    while (left := end - time.monotonic()) > 0 and select.select([read], [], [], left)[0]:
        part = os.read(read, 1 << 16)
        if not part:
            hangs = False
            break
        text += part
    os.close(read)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL) if hangs else None
    status = os.waitpid(child, 0)[1]
    if text:
        kind, sentence = json.loads(text)
        return kind, sentence
    if hangs or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
        return "hang", f"no result after {SECONDS} s of the CPU or {CLOCK} s"
    return "crash", f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def resident() -> int:
    """Not ru_maxrss, which counts the process that this one was started from, too."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def inputs(kind, folder: Path, seeds: list[bytes], numbers):
    """Input 0, 1, ... are the valid files, and later ones mutations of these, the same in every run."""
    for number in numbers:
        data = seeds[number % len(seeds)]
        if number >= len(seeds):
            data = kind.mutate(Random(f"{kind.name} {number}"), data)
        place = folder / str(number)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / kind.name).write_bytes(data)
        yield number, place / kind.name


def main() -> None:
    label, folder, first, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    import kinds

    kind = kinds.KINDS[label]
    (folder / "seeds").mkdir(exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        # In a process of its own: what makes valid files may start threads, and a fork would copy their locks.
        seeds = _seeds(kind, folder / "seeds")
    for name in ("fastgan.errors", *kind.imports):
        importlib.import_module(name)
    global BASE
    BASE = resident()
    for number, path in inputs(kind, folder, seeds, range(first, first + count)):
        found, text = attempt(kind.open, path)
        print(json.dumps({"number": number, "outcome": found, "text": text, "valid": number < len(seeds)}), flush=True)
        if found in ("handled", "refused"):
            shutil.rmtree(path.parent, ignore_errors=True)


BASE = 0


def _seeds(kind, folder: Path) -> list[bytes]:
    stored = sorted(folder.glob("seed-*"))
    if not stored:
        child = os.fork()
        if child == 0:
            try:
                for i, data in enumerate(kind.seeds(folder)):
                    (folder / f"seed-{i}").write_bytes(data)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"the valid files of {kind.name} cannot be made")
        stored = sorted(folder.glob("seed-*"))
    return [path.read_bytes() for path in stored]


if __name__ == "__main__":
    main()
