"""Inputs made from inputs: bytes flipped, cut, copied and spliced, and values of JSON replaced by odd ones. Fast, and led by a seed."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**4200, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "a", "\0", "\ud800", "\x1b[2J", "\u202e", "../x", "/etc/passwd", ".hidden", "a/b", "(", "(a+)+b", "a{99999999999}", "x" * 300, "1",
    [], {}, [[]], [None], [0], [1, 2], ["a", 1], {"": 0}, {"a": {"a": {}}}, [0] * 70, "__metadata__",
]  # fmt: skip
TOKENS = [
    b"[" * 70, b"{" * 70, b"]", b"}", b'"', b"'", b"\\", b"\\u0000", b"\\ud800", b"\xed\xa0\x80", b"\xff", b"\xef\xbb\xbf", b"\0", b"\n", b"\r",
    b",", b":", b"=", b"#", b"-", b"---\n", b"```jsonl\n", b"```jsonl kind\n", b"```\n", b"~~~\n", b"&a ", b"*a", b"<<: ", b"!!timestamp ",
    b"!!python/object:os.system ", b"!!bool ", b"%YAML 9", b"9" * 4400, b"0x" + b"f" * 5000, b"-1", b"1e999", b"NaN", b"nan", b"inf",
    b"Infinity", b"true", b"null", b"2024-99-99", b"1979-05-27T07:32:00Z", b"[x]\n", b"[[x]]\n", b"a.b.c=1\n", b'"""', b"'''",
    b"..", b"/", b"*", b"**", b"?", b"[a", b"|", b">", b"\xe2\x80\xae", b"\x1b[31m", "ä".encode(), b"x" * 500,
]  # fmt: skip


def mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """An input near one of the corpus."""
    data = chance.choice(corpus)
    if chance.random() < 0.5:
        data = _with_odd_value(chance, data)
    if chance.random() < 0.7:
        for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
            data = chance.choice(_CHANGES)(chance, data, corpus)
    return data[:100_000]


def _flipped(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    if not data:
        return data
    position = chance.randrange(len(data))
    return data[:position] + bytes([data[position] ^ 1 << chance.randrange(8)]) + data[position + 1 :]


def _cut(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data)
    return data[:start] + data[stop:]


def _copied(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data)
    position = chance.randint(0, len(data))
    return data[:position] + data[start:stop] * chance.choice((1, 1, 2, 30)) + data[position:]


def _inserted(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    start, stop = _range(chance, data) if chance.random() < 0.3 else (chance.randint(0, len(data)),) * 2
    return data[:start] + chance.choice(TOKENS) + data[stop:]


def _spliced(chance: random.Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = chance.choice(corpus)
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


_CHANGES: list[Callable[[random.Random, bytes, Sequence[bytes]], bytes]] = [_flipped, _cut, _copied, _inserted, _inserted, _spliced]


def _range(chance: random.Random, data: bytes) -> tuple[int, int]:
    start = chance.randint(0, len(data))
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, 32, 128)))


def _with_odd_value(chance: random.Random, data: bytes) -> bytes:
    """The same JSON with one value or key replaced; a length before it, as safetensors has one, is put right."""
    start = data.find(b"{")
    if start < 0:
        return data
    try:
        value, end = _DECODER.raw_decode(data[start:].decode())
    except (ValueError, RecursionError):
        return data
    _replace(chance, value)
    text = json.dumps(value, ensure_ascii=chance.random() < 0.9).encode(errors="replace")
    rest = data[start + len(data[start:].decode()[:end].encode()) :]
    head = len(text).to_bytes(8, "little") if start == 8 else data[:start]
    return head + text + rest


_DECODER = json.JSONDecoder()


def _replace(chance: random.Random, value: Any) -> None:
    """Go down a random way and change what is at its end."""
    while isinstance(value, (dict, list)) and value:
        key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
        inner = value[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.7:
            value = inner
            continue
        action = chance.random()
        if action < 0.1:
            del value[key]
        elif action < 0.2 and isinstance(value, dict):
            value[str(chance.choice(ODD))[:300]] = value.pop(key)
        elif action < 0.3:
            value[key] = [inner] * chance.choice((1, 2, 100))
        else:
            value[key] = chance.choice(ODD)
        return
