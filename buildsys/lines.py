"""Where in a TOML text a path of keys is set: the text is read once, however many paths are asked for. Checks no syntax."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

_KEY = r"""(?:[A-Za-z0-9_-]++|"[^"]*+"|'[^']*+')"""
_HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")
_SETTING = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*+)\s*=")
_PART = re.compile(_KEY)
_INLINE = re.compile(rf"(?<![A-Za-z0-9_-])({_KEY})\s*+=")
_LONGEST = 10_000  # characters of a line that are looked at
_LINES_OF_ONE_KEY = 100


class Lines:
    """An index of the lines of a text by the keys that they set.

    _exact   keys -> the first line that sets just these, or goes on with a table of this name
    _within  the first line that sets something inside of these keys
    _inline  (keys, word) -> lines of these keys that set `word` in an inline table, each with all words that it sets
    """

    def __init__(self, source: str) -> None:
        self._exact: dict[tuple[str, ...], int] = {}
        self._within: dict[tuple[str, ...], int] = {}
        self._inline: dict[tuple[tuple[str, ...], str], list[tuple[int, frozenset[str]]]] = defaultdict(list)
        table: tuple[str, ...] = ()
        for number, whole in enumerate(source.splitlines(), 1):
            if "=" not in whole and "[" not in whole:
                continue
            line = whole[:_LONGEST]
            header = _HEADER.match(line)
            if header and "=" not in header[1]:
                keys = table = _dotted(header[1])
            else:
                setting = _SETTING.match(line)
                keys = (*table, *_dotted(setting[1])) if setting else table
                self._note_inline(keys, line, number)
            self._exact.setdefault(keys, number)
            for depth in range(1, min(len(keys), 16)):
                self._within.setdefault(keys[:depth], number)

    def _note_inline(self, keys: tuple[str, ...], line: str, number: int) -> None:
        words = frozenset(word.strip("\"'") for word in _INLINE.findall(line))
        for word in words:
            known = self._inline[keys, word]
            if len(known) < _LINES_OF_ONE_KEY:
                known.append((number, words))

    def of(self, where: Sequence[str]) -> int:
        """The line on which a path of keys is set, or the nearest line above it that there is; 1 for none."""
        path = tuple(where)
        whole = [lines[path] for lines in (self._exact, self._within) if path in lines]
        if whole:
            return min(whole)
        best, line = 0, 1
        for depth in range(len(path)):
            outer, rest = path[:depth], path[depth:]
            if depth > best and outer in self._exact:
                best, line = depth, self._exact[outer]
            for number, words in self._inline.get((outer, rest[0]), ()):
                reached = depth + next((i for i, word in enumerate(rest) if word not in words), len(rest))
                if (reached, -number) > (best, -line):
                    best, line = reached, number
        return line


def _dotted(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
