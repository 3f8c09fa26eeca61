"""Every parser of bytes from outside, as a function that may raise nothing but a BuildError. A new parser is a line of TARGETS.

Seeds and inputs that failed once are files of corpus/<target>/.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from buildsys import buildfile, declared, marks, measurements, memory, permission
from buildsys.action import canonical_bytes, digest_of
from buildsys.errors import BuildError
from buildsys.examples import rows
from buildsys.marks import Marks
from buildsys.store import generations, observe, records
from buildsys.store.observe import Observer
from buildsys.store.stat_cache import StatCache
from buildsys.tensors import adapters, checkpoints, configuration, tokens
from tests.checkpoints import save

CORPUS = Path(__file__).parent / "corpus"
FILE = Path("input")
CONFIG_END = b"\n--header--\n"  # between the two files of an adapter
MODULE = "model.layers.0.self_attn.q_proj"


def of_buildfile(data: bytes) -> None:
    """The whole way into a graph, in a project that has the files which the seeds name."""
    declared.graph(buildfile.parsed(data, _project() / "Buildfile.toml"), Observer(StatCache(None, Marks(None))))


def of_rows(data: bytes) -> None:
    rows.serialised(rows.parse(data, "rows.jsonl"))


def of_parquet(data: bytes) -> None:
    rows.serialised(rows.parse(data, "rows.parquet"))


def of_node(data: bytes) -> None:
    node = memory.parsed(data, "node.md")
    for aspect in node["own_examples"]:
        rows.parse(memory.examples(data, aspect), "node.md")


def of_header(data: bytes) -> None:
    """A whole safetensors file."""
    length = int.from_bytes(data[:8], "little")
    checkpoints.parsed_header(data[8 : 8 + length], len(data), FILE)


def of_index(data: bytes) -> None:
    checkpoints.parsed_index(data, FILE)


def of_tokenizer(data: bytes) -> None:
    tokens.parsed(data, "", FILE)
    tokens.extended(data, None, {"<new>": {"id": 3, "content": "<new>"}}, 7, FILE)


def of_settings(data: bytes) -> None:
    """tokenizer_config.json, and vocab.json or added_tokens.json."""
    tokens.parsed_template(None, data, FILE)
    tokens.extended(b"{}", data, {"<new>": {"id": 3, "content": "<new>"}}, 7, FILE)


def of_vocabulary(data: bytes) -> None:
    tokens.parsed_rows(data, FILE)


def of_template(data: bytes) -> None:
    tokens.parsed_template(data, None, FILE)


def of_configuration(data: bytes) -> None:
    configuration.parsed(data, FILE)


def of_adapter(data: bytes) -> None:
    _, alphas = adapters.parsed_config(data, FILE)
    for matches, _ in alphas:
        matches(MODULE)


def of_lora(data: bytes) -> None:
    """Configuration and tensors of an adapter beside its base: CONFIG_END is between the two."""
    config, _, header = data.partition(CONFIG_END)
    folder, base = _project() / "lora", _project() / "model"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    adapter = adapters.Adapter(folder, checkpoints.Checkpoint(base))
    for name, source in adapter.names().items():
        adapter.tau(name, source)


def of_record(data: bytes) -> None:
    """A record under the key of whatever action it has, with its mark or without: as `build cache trust` reads it."""
    with _told("ValueError"):
        records.checked(_key(data), marks.without_mark(data) or data)


def of_generation(data: bytes) -> None:
    with _told("ValueError"):
        generations.unmarked(data)


def of_measurement(data: bytes) -> None:
    with _told("ValueError"):
        measurements.checked(_name(data), marks.without_mark(data) or data)


def of_mark(data: bytes) -> None:
    """What is read as ours: never these bytes, which nobody has marked, and never an exception."""
    ours = Marks(b"a secret that the input does not know")
    assert ours.content("record", "name", data) is None
    content = ours.sealed("stat", "", data) if data[-1:] == b"}" else data
    ours.content("stat", "", content)


def of_allowed(data: bytes) -> None:
    permission.parsed(data)


@contextmanager
def _told(refusal: str) -> Iterator[None]:
    """These parsers refuse with a ValueError, which their one caller takes for a damaged file."""
    try:
        yield
    except ValueError as error:
        raise BuildError(refusal, [("reason", str(error))]) from error


def _key(data: bytes) -> str:
    """The key that the input itself asks for, so that what lies behind that check is reached."""
    try:
        return digest_of(canonical_bytes(json.loads(marks.without_mark(data) or data)["action"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return "0" * 64


def _name(data: bytes) -> str:
    try:
        return measurements.place(json.loads(marks.without_mark(data) or data)["document"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "00/00.json"


TARGETS: dict[str, Callable[[bytes], None]] = {
    "adapter": of_adapter,
    "allowed": of_allowed,
    "buildfile": of_buildfile,
    "configuration": of_configuration,
    "generation": of_generation,
    "header": of_header,
    "index": of_index,
    "lora": of_lora,
    "mark": of_mark,
    "measurement": of_measurement,
    "node": of_node,
    "parquet": of_parquet,
    "record": of_record,
    "rows": of_rows,
    "settings": of_settings,
    "template": of_template,
    "tokenizer": of_tokenizer,
    "vocabulary": of_vocabulary,
}


def run(name: str, data: bytes) -> None:
    """Raises what is a fault: anything but our errors."""
    try:
        TARGETS[name](data)
    except BuildError as error:
        str(error)


def seeds(name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]


@cache
def _project() -> Path:
    """A project folder of this process."""
    import atexit
    import shutil

    import numpy

    observe._GLOB_SECONDS = 0.2  # a pattern for the whole disk is no fault of a parser
    root = Path(tempfile.mkdtemp(prefix="buildsys-fuzz-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    ones = numpy.ones((4, 4), numpy.float32)
    save(root / "model", {f"{MODULE}.weight": ones})
    save(root / "tuned", {f"{MODULE}.weight": 2 * ones})
    (root / "rows.jsonl").write_bytes(b"".join(b'{"prompt": "%d", "chosen": "a", "rejected": "b"}\n' % number for number in range(40)))
    (root / "memory").mkdir()
    (root / "memory" / "one.md").write_text("---\nid: one\naspects: [kind]\n---\n")
    (root / "judge.py").write_text("")
    return root
