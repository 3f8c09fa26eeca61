"""Text from outside as a terminal may show it: what would steer it, hide or reorder other text becomes a visible escape.

Imported by every `build`, also where there is nothing to do, so it loads the rest of what it needs only where it is needed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_SPELLINGS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str, keep: str = "") -> str:
    """The text with a visible escape for each character that is not seen where it stands; the same when it is asked again.

    keep  characters that stay, as a line break does in text of several lines

    Seen are the characters that Unicode calls graphic: letters, marks, numbers, punctuation, symbols, spaces. Escaped is everything
    else: C0 and C1 controls, line separators, bidirectional marks, format characters, private use, half surrogate pairs; and
    the few letters and marks that have no ink. A joiner stays where it joins: within an emoji, between letters of a joining script.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        [
            character if character in keep or _seen(character) or _joins(text, position) else _escape(character)
            for position, character in enumerate(text)
        ]
    )


class Printable:
    """A text stream that is given nothing but printable lines, whoever writes: what libraries say of a file may quote it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def json_line(data: Any, encoding: str) -> str:
    """One line of JSON that a terminal may show: what `printable` escapes has the escape of JSON; NaN and infinity become null.

    encoding  of the stream that it is written to: pure ASCII for any but UTF-8
    """
    import json

    in_ascii = encoding.lower().replace("-", "").replace("_", "") != "utf8"
    try:
        text = json.dumps(data, ensure_ascii=in_ascii, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), ensure_ascii=in_ascii, allow_nan=False)
    if text.isascii() and text.isprintable():
        return text
    return "".join([character if _seen(character) else json.dumps(character)[1:-1] for character in text.replace("\x7f", r"\u007f")])


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and data - data != 0 else data


def _seen(character: str) -> bool:
    if character < "\x7f":
        return character >= " "
    return (character.isprintable() and not _without_ink(ord(character))) or _category(character) == "Zs"


def _without_ink(code: int) -> bool:
    """Letters and marks that Unicode calls default ignorable: a terminal shows nothing for them."""
    return any(first <= code <= last for first, last in _IGNORABLE)


_IGNORABLE = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
_TEXT_STYLE, _EMOJI_STYLE = "\ufe0e", "\ufe0f"
_NON_JOINER, _JOINER = "\u200c", "\u200d"


def _joins(text: str, position: int) -> bool:
    """True for a joiner or a variation selector that does its work: elsewhere it only makes two equal names different."""
    character = text[position]
    if character not in (_TEXT_STYLE, _EMOJI_STYLE, _NON_JOINER, _JOINER):
        return False
    before, after = text[position - 1 : position], text[position + 1 : position + 2]
    if character in (_TEXT_STYLE, _EMOJI_STYLE):
        return before > "\x7f" and _category(before)[0] == "S"
    if _in_joining_script(before) and _in_joining_script(after):
        return True
    pictured = before == _EMOJI_STYLE or (before > "\x7f" and _category(before) in ("So", "Sk"))
    return character == _JOINER and pictured and after != "" and _category(after) == "So"


def _in_joining_script(character: str) -> bool:
    """From Arabic to Sinhala, where words are written with joiners."""
    return "\u0600" <= character <= "\u0dff" and _category(character)[0] in "LM"


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SPELLINGS:
        return _SPELLINGS[character]
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _category(character: str) -> str:
    import unicodedata

    return unicodedata.category(character)
