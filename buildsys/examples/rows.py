"""JSON Lines or Parquet -> checked example rows, their digest and their split by hash. Knows no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from buildsys import strict
from buildsys.action import Digest, canonical_bytes, digest_of
from buildsys.errors import UsageError, reason_of

Row = dict[str, Any]
Part = Literal["all", "train", "held-out"]

HELD_OUT_SHARE = 5  # one row in five is kept for verification where a behaviour names no rows for it

SHAPES = {
    ("text",): "text",
    ("messages",): "messages",
    ("prompt", "completion"): "completion",
    ("prompt", "chosen", "rejected"): "preference",
}
_FIELDS = {field for shape in SHAPES for field in shape}
_PROBLEMS_MAX = 1000  # bad rows that are counted
_ROW_BYTES_MAX = 100_000_000
_PARQUET_ROWS_MAX = 1_000_000
_UNPACKED_BYTES, _UNPACKED_TIMES = 1 << 28, 20  # of a Parquet file: the text of its rows, and how many times the file itself
_EXPECTED = "text · messages · prompt + completion · prompt + chosen + rejected"


def parse(data: bytes, path: str) -> list[Row]:
    """The rows of a JSON Lines or Parquet file, reduced to the fields that mean something; other columns are left out.

    Raises UsageError with every bad line of the file (at most ten are shown).
    """
    rows: list[Row] = []
    problems: list[tuple[str, str]] = []
    ids: dict[str | int, str] = {}
    for place, given, unread in _parquet(data, path) if path.endswith(".parquet") else _lines(data):
        wrong = unread or _problem(given) or _unspeakable(given)
        name = given.get("id") if isinstance(given, dict) else None
        if isinstance(name, (str, int)):
            wrong = wrong or (f"has the id '{strict.shortened(str(name), 60)}' of {ids[name]}" if name in ids else None)
            ids.setdefault(name, place)
        if not wrong:
            rows.append({field: given[field] for field in given if field in _FIELDS})
            continue
        problems.append((place, wrong))
        if len(problems) == _PROBLEMS_MAX:
            break
    if problems:
        more = [("", f"… and {len(problems) - 10:,} more")] if len(problems) > 10 else []
        least = "at least " if len(problems) == _PROBLEMS_MAX else ""
        headline = f"{least}{_counted(len(problems), 'bad row')} in {path}"
        raise UsageError(headline, problems[:10] + more, f"a row has the fields {_EXPECTED}")
    if not rows:
        raise UsageError(f"no rows in {path}", hint=f"one JSON object a line, with the fields {_EXPECTED}")
    kinds = sorted({shape(row) for row in rows})
    if len(kinds) > 1:
        raise UsageError(f"rows of {len(kinds)} shapes in {path}: {', '.join(kinds)}", hint="give each shape a file of its own")
    return rows


def _lines(data: bytes) -> Iterator[tuple[str, Any, str | None]]:
    """(where, what it is, why it cannot be read) of every line that is not empty."""
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", strict.json_value(line, _ROW_BYTES_MAX, nan=True, surrogates=True), None
            except strict.Malformed as error:
                yield f"line {number}", None, str(error)


def _parquet(data: bytes, path: str) -> Iterator[tuple[str, Any, str | None]]:
    """The same of every row of a Parquet file; a column without a value in a row is not a field of it."""
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        hint = "pip install 'buildsys[datasets]', or give JSON Lines"
        raise UsageError(f"reading {path} needs pyarrow", hint=hint) from error
    rows, left = 0, max(_UNPACKED_BYTES, _UNPACKED_TIMES * len(data))
    try:
        file = ParquetFile(BufferReader(data))
        columns = [name for name in file.schema_arrow.names if name in _FIELDS]
        declared = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
        if file.metadata.num_rows > _PARQUET_ROWS_MAX or declared > left:
            raise _too_large(path, file.metadata.num_rows, left)
        for batch in file.iter_batches(batch_size=512, columns=columns, use_threads=False):
            left -= batch.nbytes
            if left < 0:
                raise _too_large(path, file.metadata.num_rows, max(_UNPACKED_BYTES, _UNPACKED_TIMES * len(data)))
            for row in batch.to_pylist():
                rows += 1
                yield f"row {rows}", _without_nulls(row), None
    except (ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UsageError(f"{path} is not a Parquet file that can be read", [("reason", reason_of(error))]) from error


def _too_large(path: str, rows: int, bytes_max: int) -> UsageError:
    facts = [("rows", f"{rows:,}, and {_PARQUET_ROWS_MAX:,} are the limit"), ("limit of their text", f"{bytes_max:,} bytes")]
    return UsageError(f"{path} holds more than a file of examples may", facts, "split it into several files")


def _without_nulls(value: Any) -> Any:
    """A column, or a field of a message, that has no value in a row is not a field of it."""
    if isinstance(value, dict):
        return {field: _without_nulls(inner) for field, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def shape(row: Row) -> str:
    """`text`, `messages`, `completion` or `preference`."""
    return SHAPES[tuple(field for field in ("text", "messages", "prompt", "completion", "chosen", "rejected") if field in row)]


def is_conversation(row: Row) -> bool:
    """True for `messages`, and for a `prompt` of messages."""
    return "messages" in row or isinstance(row.get("prompt"), list)


def digest(rows: Sequence[Row]) -> Digest:
    """The digest of the parsed rows in their order: reformatting the file changes nothing."""
    return digest_of(serialised(rows))


def serialised(rows: Sequence[Row]) -> bytes:
    """The rows as canonical JSON Lines, the bytes that `digest` hashes and a rule reads."""
    return b"".join(canonical_bytes(row) + b"\n" for row in rows)


def read(place: Path) -> list[Row]:
    """The rows that a rule was given: a file of canonical lines, or the artifact that holds one."""
    file = place / "rows.jsonl" if place.is_dir() else place
    return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]  # splitlines would also split at U+2028


def part(rows: Sequence[Row], which: Part) -> list[Row]:
    """All rows, those to train on, or the fixed share that is held out: chosen by the hash of what each row asks and answers.

    Two rows that differ only in what they reject are on the same side, and of those held out the first one stays.
    """
    if which == "all":
        return list(rows)
    return [rows[position] for position in positions([asked(row) for row in rows], which)]


def positions(names: Sequence[str], which: Part) -> list[int]:
    """Where the rows of a part stand, given what `asked` says of all of them."""
    if which == "all":
        return list(range(len(names)))
    found = [position for position, name in enumerate(names) if (int(name, 16) % HELD_OUT_SHARE == 0) == (which == "held-out")]
    if which == "train":
        return found
    once: dict[str, int] = {}
    for position in found:
        once.setdefault(names[position], position)
    return list(once.values())


def bucket(row: Row) -> int:
    """A fixed number of the row, spread evenly: what splits are made by."""
    return bucket_of(canonical_bytes(row))


def bucket_of(line: bytes) -> int:
    """The same of a row that is spelled already."""
    return int(digest_of(line)[:12], 16)


def asked(row: Row) -> str:
    """A short digest of a question and its answer: two rows that differ only in what they reject have the same."""
    answer = {field: row[field] for field in row if field != "rejected"}
    if "chosen" in answer:
        answer["completion"] = answer.pop("chosen")
    return digest_of(canonical_bytes(answer))[:16]


def numbered(places: Sequence[int]) -> str:
    """Row numbers as text, the first ten of them."""
    shown = ", ".join(map(str, places[:10]))
    return f"{shown}, … ({len(places)})" if len(places) > 10 else shown


def beginning(row: Row, characters: int) -> str:
    """The first words of a row, in quotes."""
    given = row.get("prompt") or row.get("text") or row.get("messages") or row.get("chosen") or row.get("completion")
    text = " ".join((given if isinstance(given, str) else str(given[0]["content"]) if given else "").split())
    return f'"{text}"' if len(text) <= characters else f'"{text[: characters - 1]}…"'


def _problem(row: Any) -> str | None:
    if not isinstance(row, dict):
        return f"is {_json_kind(row)}, not an object"
    fields = tuple(field for field in ("text", "messages", "prompt", "completion", "chosen", "rejected") if field in row)
    if fields not in SHAPES:
        return f"has the fields {strict.shortened(', '.join(map(str, row)), 200) or 'none'}"
    for field in fields:
        value = row[field]
        if isinstance(value, str) and field != "messages":
            continue
        if field == "text" or not _is_messages(value):
            return f"field '{field}' is {_json_kind(value)}, expected {'text' if field == 'text' else 'text or messages'}"
    if fields[0] == "messages":
        return None if any(turn["role"] == "assistant" for turn in row["messages"]) else "no message has the role 'assistant'"
    if len({isinstance(row[field], str) for field in fields}) > 1:
        return f"{' and '.join(fields)} must be all text or all messages"
    answers = [row[field] for field in fields[1:]]
    if any(isinstance(answer, list) and [turn["role"] for turn in answer] != ["assistant"] for answer in answers):
        return "an answer is one message with the role 'assistant'"
    if any(not answer for answer in answers) or (fields == ("text",) and not row["text"]):
        return "is empty"
    if len(answers) == 2 and answers[0] == answers[1]:
        return "chosen and rejected are the same"
    return None


def _unspeakable(row: Row) -> str | None:
    """A value that JSON Lines allow and no tokenizer or key can take: half a surrogate pair, NaN."""
    try:
        for field, value in row.items():
            if field in _FIELDS:
                value.encode() if type(value) is str else canonical_bytes(value)
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is no text"
    except TypeError as error:
        return str(error)
    return None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in value
    )


def _json_kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
