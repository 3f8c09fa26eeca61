"""JSON and schemas from outside: a value within bounds, or one error that says why. Knows no file and no format of ours."""

from __future__ import annotations

import gc
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from buildsys.errors import BuildError, reason_of

if TYPE_CHECKING:
    from pydantic import BaseModel

DEPTH_MAX = 64  # levels of nesting; what is read here has five at most
CONTAINERS_MAX = 1_000_000  # lists and objects; the header of 100,000 tensors has 300,001
_FEW = 1000  # containers that a collector goes through in no time
_DIGITS_MAX = 4300  # Python's own limit for a whole number as text

T = TypeVar("T", bound="BaseModel")


class Malformed(ValueError):
    """Why bytes are not the JSON that is asked for, as the end of a sentence about them."""


def json_value(data: bytes, bytes_max: int, *, unique: bool = False, nan: bool = False, surrogates: bool = False) -> Any:
    """The value that UTF-8 JSON spells; a byte order mark before it is passed over.

    unique      a key that stands twice in one object is refused; otherwise the last one counts
    nan         NaN and infinities pass, also those that a number such as 1e999 stands for
    surrogates  escaped halves of surrogate pairs pass; they have no bytes in UTF-8

    Raises Malformed for anything else, also for more than `bytes_max` bytes, DEPTH_MAX levels, CONTAINERS_MAX or 4,300 digits.
    """
    if len(data) > bytes_max:
        raise Malformed(f"has {len(data):,} bytes, and {bytes_max:,} are the limit")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(f"is not UTF-8 at byte {error.start:,}") from error
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > CONTAINERS_MAX:  # those in texts are no containers
        without_texts = _TEXT.sub(b"", data)
        if without_texts.count(b"[") + without_texts.count(b"{") > CONTAINERS_MAX:
            raise Malformed(f"has more than {CONTAINERS_MAX:,} lists and objects")
    try:
        if brackets < _FEW:
            value = _DECODERS[unique, nan].decode(text)
        else:
            with uncollected():
                value = _DECODERS[unique, nan].decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"is not JSON: {error}") from error
    except RecursionError:
        raise Malformed(_TOO_DEEP) from None
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(f"has a number of more than {_DIGITS_MAX:,} digits") from error
    if brackets > DEPTH_MAX and deeper_than(value, DEPTH_MAX):
        raise Malformed(_TOO_DEEP)
    if not surrogates and _SURROGATE.search(text) and not encodable(value):
        raise Malformed("has half of a surrogate pair, which is not text")
    return value


def parsed_json(
    data: bytes,
    name: str,
    bytes_max: int,
    *,
    facts: Iterable[Sequence[str]] = (),
    hint: str = "",
    unique: bool = False,
    nan: bool = False,
) -> dict[str, Any]:
    """The JSON object of a file that messages call `name`. Raises BuildError, with `facts` and the reason, for anything else."""
    try:
        value = json_value(data, bytes_max, unique=unique, nan=nan)
        if not isinstance(value, dict):
            raise Malformed("is not a JSON object")
    except Malformed as error:
        raise BuildError(f"{name} cannot be read", [*facts, ("reason", f"it {error}")], hint) from error
    return value


def validated(model: type[T], value: Any, name: str, facts: Iterable[Sequence[str]] = (), hint: str = "") -> T:
    """The value as the schema has it. Raises BuildError that names the first field which does not fit."""
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        reason = first["msg"].removeprefix("Input ").replace("dictionary", "table")
        raise BuildError(f"{name} cannot be read", [*facts, (shortened(where, 60), reason)], hint) from error


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection meanwhile: it would go through a hundred thousand new containers again and again, all of them in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def pattern(text: str, characters_max: int) -> re.Pattern[str]:
    """A regular expression, compiled. Raises Malformed for one that is too long, or that is not one."""
    if len(text) > characters_max:
        raise Malformed(f"has {len(text):,} characters, and {characters_max:,} are the limit")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a set in a set, which Python may read otherwise one day
            return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Malformed(f"is not a pattern: {reason_of(error)}") from error


def deeper_than(value: Any, levels: int) -> bool:
    """True where lists and tables are nested more than `levels` deep. Walks level by level: no depth is too much for it."""
    inside = [value]
    for _ in range(levels + 1):
        inside = [item for item in inside if type(item) is dict or type(item) is list]
        if not inside:
            return False
        inside = list(chain.from_iterable([item.values() if type(item) is dict else item for item in inside]))
    return any(type(item) is dict or type(item) is list for item in inside)


def encodable(value: Any) -> bool:
    """False where a text in the value has half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
        return True
    except UnicodeEncodeError:
        return False


def shortened(text: str, characters: int) -> str:
    """A text from outside as a message shows it."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Malformed(f"has the key {shortened(twice, 60)!r} twice")
    return table


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed(f"has the number {shortened(text, 20)}, which is beyond the range of float64")
    return number


def _refused(constant: str) -> float:
    raise Malformed(f"has {constant}, which is not JSON")


_DECODERS = {
    (unique, nan): json.JSONDecoder(
        object_pairs_hook=_unique_keys if unique else None,
        parse_constant=None if nan else _refused,
        parse_float=None if nan else _finite,
    )
    for unique in (False, True)
    for nan in (False, True)
}
_TOO_DEEP = f"is nested deeper than {DEPTH_MAX} levels"
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
