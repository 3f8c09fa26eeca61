"""Valid documents of every kind, with something wrong somewhere: what bytes flipped at random would rarely reach."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.mutation import ODD
from tests.fuzz.targets import CONFIG_END, MODULE

ODD_VALUES = st.sampled_from(ODD)
NAMES = st.text(max_size=12) | st.sampled_from(["a", "b", "model.embed_tokens.weight", "__metadata__", "q_proj"])
SIZES = st.integers(-2, 8) | st.sampled_from([2**31, 2**63, 10**30])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD_VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value as it should be, four times in five."""
    return st.integers(0, 4).flatmap(lambda chance: right if chance else JSON)


def table(required: dict[str, st.SearchStrategy[Any]], optional: dict[str, st.SearchStrategy[Any]] | None = None) -> st.SearchStrategy[Any]:
    return mostly(
        st.fixed_dictionaries(
            {name: mostly(value) for name, value in required.items()},
            optional={name: mostly(value) for name, value in (optional or {}).items()},
        )
    )


def spelled(value: Any) -> bytes:
    """A value as JSON, with NaN where it has one."""
    return json.dumps(value).encode()


ENTRY = table(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F8_E4M3"]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(st.integers(0, 64) | SIZES, min_size=2, max_size=2),
    }
)
HEADER = st.dictionaries(NAMES, ENTRY, max_size=4).map(spelled)
ADDED = table({"id": st.integers(0, 20), "content": NAMES}, {"special": st.booleans()})
VOCABULARY = st.dictionaries(NAMES, mostly(st.integers(0, 9)), max_size=5)
TOKENIZER = table(
    {
        "model": table(
            {"vocab": VOCABULARY | st.lists(st.tuples(NAMES, st.floats()), max_size=3)}, {"merges": st.lists(st.just(["a", "b"]))}
        )
    },
    {"added_tokens": st.lists(ADDED, max_size=3)},
)
NUMBERS = st.integers(0, 100) | SIZES
CONFIGURATION = table(
    {"architectures": st.just(["LlamaForCausalLM"]), "model_type": st.just("llama")},
    dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"), NUMBERS),
)
PATTERNS = st.dictionaries(
    st.sampled_from(["q_proj", "^model", ".*", "(a+)+b", "(", "[", r"\d{3}", "a|b"]) | NAMES, mostly(st.integers(1, 9)), max_size=3
)
ADAPTER = table(
    {"peft_type": st.just("LORA"), "r": st.integers(1, 8), "lora_alpha": st.integers(1, 16)},
    {"alpha_pattern": PATTERNS, "use_rslora": st.booleans(), "use_dora": st.just(False), "fan_in_fan_out": st.booleans()},
)
FACTORS = st.fixed_dictionaries(
    {
        f"base_model.model.{MODULE}.lora_{letter}.weight": table(
            {"dtype": st.just("F32"), "shape": st.lists(st.integers(0, 8), min_size=1, max_size=3), "data_offsets": st.just(offsets)}
        )
        for letter, offsets in (("A", [0, 32]), ("B", [32, 64]))
    }
)
MESSAGES = st.lists(table({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=8)}), max_size=3)
WORDS = st.text(max_size=8) | MESSAGES
ROW = (
    table({"text": st.text(max_size=8)}, {"id": st.integers(0, 3) | NAMES})
    | table({"messages": MESSAGES})
    | table({"prompt": WORDS, "chosen": WORDS, "rejected": WORDS}, {"id": JSON})
    | table({"prompt": WORDS, "completion": WORDS})
)
ROWS = st.lists(ROW.map(spelled), max_size=4).map(b"\n".join)
YAML = JSON.map(json.dumps) | st.text(max_size=20) | st.sampled_from(["[a, b]", "&x [*x]", "!!timestamp x", "{<<: *x}", "- a\n - b"])
NODE = st.tuples(YAML, YAML, YAML, ROWS).map(
    lambda parts: (
        f"---\nid: {parts[0]}\naspects: {parts[1]}\nlinks: {parts[2]}\n---\n```jsonl\n".encode(errors="replace") + parts[3] + b"\n```\n"
    )
)


def toml(value: Any) -> str:
    """A value in an inline spelling; what TOML has no word for becomes text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    return str(value) if isinstance(value, int) and abs(value) < 10**100 else json.dumps(str(value))


SETTINGS = st.sampled_from(
    [
        "base",
        "path",
        "hub",
        "revision",
        "node",
        "examples",
        "train",
        "verify",
        "vectors",
        "method",
        "density",
        "unverified",
        "checks",
        "regex",
        "rows",
        "sum",
        "analogy",
    ]
)
TABLE = st.dictionaries(
    SETTINGS | NAMES, mostly(st.sampled_from(["t", "model", "tuned", "rows.jsonl", "v", 0.5, True, {"v": 1.0}, ["v"]])), max_size=5
)
BUILDFILE = st.lists(
    st.tuples(
        st.sampled_from(["base.t", "behavior.a", "vector.v", "merged.x", "build", "graph", "defaults.train", "defaults.verify"]), TABLE
    ),
    max_size=5,
    unique_by=lambda part: part[0],
).map(
    lambda parts: "\n".join(
        f"[{name}]\n" + "\n".join(f"{json.dumps(str(k))} = {toml(v)}" for k, v in given.items() if isinstance(given, dict))
        for name, given in parts
    ).encode(errors="replace")
)

DIGEST = st.text("0123456789abcdef", min_size=64, max_size=64)
FILES = st.dictionaries(
    st.sampled_from(["config.json", "model.safetensors", "/etc/passwd", "../x", ".x", "a/b"]) | NAMES,
    mostly(st.tuples(DIGEST, st.integers(0, 1 << 40))),
    max_size=3,
)
RECORD = table(
    {
        "format": st.sampled_from([1, 2]),
        "action": st.dictionaries(NAMES, JSON, max_size=3),
        "files": FILES,
        "references": FILES,
        "values": st.dictionaries(NAMES, st.dictionaries(NAMES, JSON, max_size=2), max_size=2),
        "facts": st.dictionaries(NAMES, JSON, max_size=2),
        "boot": st.text(max_size=8),
    }
)
GENERATION = table(
    {
        "format": st.sampled_from([1, 2, 3]),
        "time": NAMES,
        "target": NAMES,
        "digest": DIGEST,
        "keys": st.dictionaries(NAMES, mostly(DIGEST), max_size=2),
        "labels": st.dictionaries(NAMES, st.dictionaries(NAMES, st.lists(NAMES, max_size=2), max_size=2), max_size=2),
    }
)
MEASUREMENT = table({"format": st.sampled_from([1, 2]), "document": st.dictionaries(NAMES, JSON, max_size=3), "numbers": JSON})
ALLOWED = table({"format": st.just(2), "projects": st.dictionaries(NAMES, st.dictionaries(NAMES, mostly(DIGEST), max_size=2), max_size=2)})

DOCUMENTS: dict[str, st.SearchStrategy[bytes]] = {
    "adapter": ADAPTER.map(spelled),
    "buildfile": BUILDFILE,
    "allowed": ALLOWED.map(spelled),
    "configuration": CONFIGURATION.map(spelled),
    "generation": GENERATION.map(spelled),
    "header": HEADER.map(lambda text: len(text).to_bytes(8, "little") + text + bytes(64)),
    "index": table({"weight_map": st.dictionaries(NAMES, mostly(st.just("model-00001-of-00002.safetensors")), max_size=3)}).map(spelled),
    "lora": st.tuples(ADAPTER, FACTORS).map(lambda parts: spelled(parts[0]) + CONFIG_END + spelled(parts[1])),
    "mark": RECORD.map(spelled),
    "measurement": MEASUREMENT.map(spelled),
    "node": NODE,
    "record": RECORD.map(spelled),
    "rows": ROWS,
    "settings": table({"chat_template": st.text(max_size=8)}, {"added_tokens_decoder": JSON}).map(spelled),
    "tokenizer": TOKENIZER.map(spelled),
    "vocabulary": VOCABULARY.map(spelled),
}
"""Target -> documents; a target without them has bytes alone."""
