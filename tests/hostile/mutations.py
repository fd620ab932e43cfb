"""Mutations of files: of any bytes, of JSON values, of the members of archives, each drawn from a given generator."""

import copy
import io
import json
import struct
import zipfile
from random import Random

#: Values that a field of JSON may be replaced by.
VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 1e308, -1e308, float("nan"), float("inf"), 0.5, "",
    "x", "\udc80", "../../x", "1", "a" * 5000, [], {}, [1, 2], [[1], "x"], {"a": 1}, [None], [float("nan"), 1],
    12_000, 1_000_000,
)  # fmt: skip
DEEP = b"[" * 10_000
_WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFF, 20_000, 65_535)
_TOKENS = (
    b"NaN", b"Infinity", b"-1", b"1e999", b"null", b"{}", b"[]", b'"', b"\0", b"\xff\xfe", b"\xc3\x28", b"[" * 3000,
    b"{" * 3000, b"&a [*a]", b"*a", b"<<: *a", b"!!python/object:os.system x", b"a.b.c.d.e.f = 1\n", b"\n",
    b": ", b"9" * 5000,
)  # fmt: skip


def of_bytes(random: Random, data: bytes) -> bytes:
    """One to three changes: bits, words, cuts, splices, inserted and repeated bytes."""
    for _ in range(random.randint(1, 3)):
        data = random.choice((_flip, _flip, _word, _word, _cut, _splice, _insert, _token, _repeat))(random, data)
    return data


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 32))):
        if changed:
            changed[_place(random, len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _place(random: Random, size: int) -> int:
    # Headers are at the start, and directories of archives at the end.
    return random.choice(
        (random.randrange(size), random.randrange(min(size, 64)), size - 1 - random.randrange(min(size, 64)))
    )


def _word(random: Random, data: bytes) -> bytes:
    if len(data) < 8:
        return data
    at = _place(random, len(data) - 7)
    word = (
        struct.pack(random.choice(("<I", ">I", "<Q", ">Q", "<H", ">H")), random.choice(_WORDS) & 0xFFFF)
        if random.random() < 0.3
        else struct.pack(random.choice(("<I", ">I", "<Q", ">Q")), random.choice(_WORDS))
    )
    return data[:at] + word + data[at + len(word) :]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(random: Random, data: bytes) -> bytes:
    a, b = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
    at = random.randrange(len(data) + 1)
    return data[:at] + data[a:b] + data[at:] if random.random() < 0.5 else data[:a] + data[b:]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 16, 300))) + data[at:]


def _token(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_TOKENS) + data[at:]


def _repeat(random: Random, data: bytes) -> bytes:
    return data + data if random.random() < 0.5 else data[:32] + data


def of_json(random: Random, data: bytes) -> bytes:
    """One to three values of a JSON text are replaced, removed or added; now and then the text is nested deeply."""
    if random.random() < 0.05:
        return random.choice((DEEP, b'{"a":' * 10_000, DEEP + b"]" * 10_000))
    value = json.loads(data)
    for _ in range(random.randint(1, 3)):
        value = _changed(random, value)
    text = json.dumps(value)
    if random.random() < 0.05:
        text = text[:-1] + ', "deep": ' + "[" * 5000 + "]" * 5000 + text[-1:]
    return text.encode("utf-8", "surrogatepass")


def _changed(random: Random, value: object) -> object:
    if isinstance(value, dict | list) and value and random.random() < 0.85:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if random.random() < 0.1:
            del value[key]
        else:
            value[key] = _changed(random, value[key])
        return value
    if isinstance(value, dict) and random.random() < 0.3:
        return {**value, "unknown": _value(random)}
    return _value(random)


def _value(random: Random) -> object:
    return copy.deepcopy(random.choice(VALUES))  # later changes would go into lists that are shared


def of_json_lines(random: Random, data: bytes) -> bytes:
    """The same of some lines of a .jsonl file."""
    lines = data.splitlines()
    for _ in range(random.randint(1, 3)):
        i = random.randrange(len(lines))
        try:
            lines[i] = of_json(random, lines[i])
        except ValueError:  # changed already
            lines[i] = of_bytes(random, lines[i])
    return b"\n".join(lines) + b"\n"


def of_zip(random: Random, data: bytes, inner=of_bytes) -> bytes:
    """A member changed by `inner`, with the right checksum; or its name, method, flags or size in the directory."""
    if not zipfile.is_zipfile(io.BytesIO(data)):  # a .pth of before PyTorch 1.6
        return of_bytes(random, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = random.randrange(len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i, (info, content) in enumerate(members):
            if i == chosen:
                content = inner(random, content) if content else content
                if random.random() < 0.1:  # a bomb: 64 MB in 64 kB
                    content, info.compress_type = content + bytes(1 << 26), zipfile.ZIP_DEFLATED
            archive.writestr(info.filename, content, info.compress_type)
    changed = bytearray(out.getvalue())
    if random.random() < 0.4:
        at = changed.rindex(b"PK\x01\x02")
        field = random.choice((8, 10, 24, 20, 28, 30, 42, 46))
        changed[at + field] ^= random.randrange(1, 256)
        if field == 46:
            changed[at + field] = 0xE9  # a name that is not UTF-8, though its flag says so
            changed[at + 9] |= 8
    return bytes(changed)
