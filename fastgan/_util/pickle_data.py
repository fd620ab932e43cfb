"""Reads a pickle as data: nothing that it names is imported, and nothing that it asks for is called.

`read_pickle` interprets the instructions of the format itself. What a pickle would import becomes a `Global`, what it
would call a `Call` with the arguments; the caller decides what they mean. Python's own Unpickler calls what it finds,
allocates what lengths claim, and sets attributes of whatever is on its stack.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from fastgan._util.schema import shown
from fastgan.errors import DataError

#: Instructions of one pickle. Files of networks have some ten thousands; each can make an object of 200 bytes.
LIMIT = 1_000_000


class Global(NamedTuple):
    """What a pickle would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call:
    """What a pickle would call, with its arguments; state: what the result would be given (`__setstate__`)."""

    __slots__ = ("args", "function", "state")

    def __init__(self, function: Global, args: tuple):
        self.function, self.args, self.state = function, args, None


class Persistent(NamedTuple):
    """An object that is outside of the pickle; key: its name there."""

    key: Any


class _Mark:
    pass


_MARK = _Mark()
#: Classes whose objects are read as plain dicts and sets. What else they carry is left out.
_DICTS = (Global("collections", "OrderedDict"), Global("dnnlib.util", "EasyDict"))
_SETS = (Global("builtins", "set"), Global("__builtin__", "set"))


def read_pickle(
    data: bytes | memoryview, allowed: Callable[[Global], bool], start: int = 0, limit: int = LIMIT
) -> tuple[Any, int]:
    """The object of the pickle that begins at `start`, and where it ends.

    Values are None, bool, int, float, str, bytes-like (memoryviews of `data`, without copies), list, tuple, dict, set,
    and `Global`, `Call` and `Persistent` in place of anything else; OrderedDict is a dict. limit: of instructions.
    Raises DataError, without the name of the file, for a global that `allowed` refuses, naming it, and for pickles that
    are damaged, too long, or of instructions that files of networks do not have.
    """
    machine = _Machine(memoryview(data), allowed, start, limit)
    try:
        return machine.run(), machine.at
    except DataError:
        raise
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, ValueError, TypeError, OverflowError) as error:
        # Of an empty stack, an absent memo, a list as a key, text that is not UTF-8.
        raise DataError(f"the pickle is damaged at byte {machine.at:,} ({type(error).__name__})") from error


class _Machine:
    """The stack and the memo of a pickle, and the position in it."""

    def __init__(self, data: memoryview, allowed: Callable[[Global], bool], start: int, limit: int):
        self.data, self.allowed, self.at, self.limit = data, allowed, start, limit
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def run(self) -> Any:
        for _ in range(self.limit):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.pop()
            if (instruction := _INSTRUCTIONS.get(code)) is None:
                raise DataError(f"the pickle has the instruction 0x{code:02x}, which files of networks do not have")
            instruction(self)
        raise DataError(f"the pickle has more than {self.limit:,} instructions")

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise DataError("the pickle is cut off")
        found = self.data[self.at : self.at + count]
        self.at += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.at
        while end < len(self.data) and end - self.at < 1000:
            if self.data[end] == 10:
                text = str(self.take(end - self.at), "utf-8")
                self.at += 1
                return text
            end += 1
        raise DataError("the pickle is cut off")

    def since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def pop(self) -> Any:
        if (value := self.stack.pop()) is _MARK:
            raise IndexError
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError
        found = Global(module, name)
        if not self.allowed(found):
            raise DataError(
                f"the pickle names {_shown(found)}, which could run any code: only tensors, names and arguments are"
                " read"
            )
        self.push(found)

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise TypeError
        if function not in _DICTS + _SETS:
            self.push(Call(function, args))
            return
        self.push({} if function in _DICTS else set())
        if args:  # pairs, or members
            # Not limited by the instructions: each could copy the same long list.
            self.copied += len(args[0])
            if self.copied > self.limit:
                raise DataError(f"the pickle has more than {self.limit:,} values")
            for each in args[0]:
                self.set_items(list(each)) if function in _DICTS else self.add([each])

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # attributes of a dict, such as the _metadata of a state dict
            raise TypeError

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def new_dict(self, values: list[Any]) -> None:
        self.push({})
        self.set_items(values)

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(values)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, set):
            raise TypeError
        target.update(map(_key, values))

    def last(self, count: int) -> tuple[Any, ...]:
        found = [self.pop() for _ in range(count)]
        return tuple(found[::-1])

    def text(self, form: str) -> None:
        self.push(str(self.take(self.number(form)), "utf-8", "surrogatepass"))

    def long(self, form: str) -> None:
        count = self.number(form)
        if not 0 <= count <= 1000:
            raise ValueError
        self.push(int.from_bytes(self.take(count), "little", signed=True))


def _key(value: Any) -> Any:
    """A key of a dict or member of a set: a plain value. The hash of tuples in tuples can take for ever."""
    if not isinstance(value, str | int | float | Global | None):
        raise TypeError
    return value


def _shown(found: Global) -> str:
    words = str(found)
    return words if words.isprintable() and len(words) <= 100 else shown(words)


def _get(machine: _Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _reduce(machine: _Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.call(function, args)


def _whole(text: str) -> int | bool:
    """Of the INT instruction of protocol 0, where 00 and 01 are booleans."""
    return text == "01" if text in ("00", "01") else int(text.removesuffix("L"))


#: Instructions by their byte, as Python's pickletools lists them.
_INSTRUCTIONS: dict[int, Callable[[_Machine], object]] = {
    ord("("): lambda m: m.push(_MARK),
    ord("0"): lambda m: m.stack.pop(),
    ord("2"): lambda m: m.push(m.stack[-1]),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number("<B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("I"): lambda m: m.push(_whole(m.line())),
    ord("L"): lambda m: m.push(_whole(m.line())),
    0x8A: lambda m: m.long("<B"),
    0x8B: lambda m: m.long("<i"),
    ord("G"): lambda m: m.push(m.number(">d")),
    ord("F"): lambda m: m.push(float(m.line())),
    ord("V"): lambda m: m.push(m.line()),
    ord("X"): lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    ord("U"): lambda m: m.push(m.take(m.number("<B"))),  # a str of Python 2
    ord("T"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("<B"))),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    0x85: lambda m: m.push(m.last(1)),
    0x86: lambda m: m.push(m.last(2)),
    0x87: lambda m: m.push(m.last(3)),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.since_mark()),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.since_mark()),
    ord("}"): lambda m: m.push({}),
    ord("d"): lambda m: m.new_dict(m.since_mark()),
    ord("s"): lambda m: m.set_items(list(m.last(2))),
    ord("u"): lambda m: m.set_items(m.since_mark()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add(m.since_mark()),
    0x91: lambda m: m.push(frozenset(map(_key, m.since_mark()))),
    ord("c"): lambda m: m.push_global(m.line(), m.line()),
    0x93: lambda m: m.push_global(*m.last(2)),
    ord("R"): _reduce,
    0x81: _reduce,  # NEWOBJ: a class and the arguments of its __new__
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.push(Persistent(m.pop())),
    ord("g"): lambda m: _get(m, int(m.line())),
    ord("h"): lambda m: _get(m, m.number("<B")),
    ord("j"): lambda m: _get(m, m.number("<I")),
    ord("p"): lambda m: _put(m, int(m.line())),
    ord("q"): lambda m: _put(m, m.number("<B")),
    ord("r"): lambda m: _put(m, m.number("<I")),
    0x94: lambda m: _put(m, len(m.memo)),
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME: lengths are checked where data is taken
}
