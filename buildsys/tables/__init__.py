"""What each table of a Buildfile may say: keys, types, defaults. Reads no file and looks up no name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from buildsys.rules import Commit, Day, Strict, icl, pretrain, train
from buildsys.tables.types import Finite, Positive, shape
from buildsys.tables.verify import Checks, Tune, Verify


class Build(Strict):
    default: list[str] = []
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    template_date: Day = "2026-01-01"  # what chat templates are told that ask for the time


class Graph(Strict):
    nodes: str | None = None
    strict: bool = False  # nodes and vectors must map 1:1, and every link must lead somewhere


class Keep(Strict):
    """What must stay as it is: rows, sequences that the base itself is asked for, or both in equal parts."""

    rows: str | Annotated[list[str], Field(min_length=1)] | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    sample_length: Annotated[int, Field(ge=2)] = 384  # tokens of a sampled sequence
    window: Annotated[int, Field(ge=2)] | None = None  # tokens of each that an update sees, every other from a random place on
    weight: Positive = 1.0
    batch_size: Annotated[int, Field(ge=1)] | None = None  # of each update; None: as many as rows of the behaviour

    @model_validator(mode="after")
    def _has_a_source(self) -> Keep:
        if self.rows is None and self.samples is None:
            raise ValueError("keep needs 'rows', or a number of 'samples' from the base, or both")
        return self

    def files(self) -> list[str]:
        return [self.rows] if isinstance(self.rows, str) else list(self.rows or [])


Store = Literal["exact", "sparse", "int8", "int4"]


class _Stored(Strict):
    """How the vector of a table is kept."""

    store: Store = "exact"
    store_density: Annotated[float, Field(gt=0, le=1)] | None = None  # share of each tensor that "sparse" keeps

    @model_validator(mode="after")
    def _sparse_has_a_density(self) -> _Stored:
        if (self.store == "sparse") != (self.store_density is not None):
            raise ValueError('store = "sparse" and store_density go together: the share of each tensor that is kept')
        return self


class Train(train.Settings, train.Steering, _Stored):
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None  # None: that of [build]
    keep: Keep | None = None


class Pretrain(pretrain.Settings):
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    corpus: str
    save_steps: Annotated[int, Field(ge=1)] | None = None


class _FromSomewhere(Strict):
    path: str | None = None
    hub: str | None = None
    revision: Commit | None = None

    def _one_source(self, *others: str) -> None:
        sources = ["path", "hub", *others]
        given = [name for name in sources if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of {', '.join(sources)}; it has {' and '.join(given) or 'none'}")
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision go together; the revision is the full commit hash")


class Base(_FromSomewhere):
    pretrain: Pretrain | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Base:
        self._one_source("pretrain")
        return self


class HubRows(Strict):
    """Rows of a data set on the Hub."""

    hub: str
    revision: Commit
    files: Annotated[str, Field(pattern=r"^[^/.][^:]*\.(parquet|jsonl)$")] = "**/*.parquet"  # a pattern inside the repository


class Behavior(Strict):
    node: str | None = None
    base: str | None = None
    examples: Annotated[Annotated[str, Tag("str")] | Annotated[HubRows, Tag("dict[table]")], Discriminator(shape)] | None = None
    train: Train = Train()
    verify: Verify = Verify()

    @model_validator(mode="after")
    def _has_examples(self) -> Behavior:
        if self.examples is None and self.node is None:
            raise ValueError("'examples' is missing, and there is no 'node' that could hold them")
        return self


class Analogy(Strict):
    """A is to B as C is to D: τ_D = coefficient · τ_C + relation · (τ_B − τ_A)."""

    a: str
    b: str
    c: str
    coefficient: Finite = 1.0
    relation: Finite = 1.0


class _Tuned(_FromSomewhere):
    """Where a vector comes from that is not trained here."""

    adapter: str | None = None  # a PEFT LoRA's folder
    of: str | None = None  # a model target
    dtype: Literal["float32", "bfloat16"] | None = None


class Icl(icl.Settings):
    """A vector from examples in the context, without training."""

    examples: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None


class Vector(_Tuned, _Stored):
    node: str | None = None
    base: str | None = None
    analogy: Analogy | None = None
    icl: Icl | None = None
    sum: Annotated[dict[str, Finite], Field(min_length=1)] | None = None
    verify: Verify | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Vector:
        self._one_source("adapter", "of", "analogy", "sum", "icl")
        return self


class Listed(_Tuned):
    """One entry of a merge's list: a vector that has no table."""

    vector: str | None = None
    coefficient: Any = 1.0  # checked with the names beside it

    @model_validator(mode="after")
    def _has_one_source(self) -> Listed:
        self._one_source("adapter", "of", "vector")
        return self


class Source(_FromSomewhere):
    """A base without a table."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Source:
        self._one_source()
        return self


Vectors = Annotated[
    Annotated[Annotated[dict[str, Any], Field(min_length=1)], Tag("dict[table]")]  # coefficients are checked with the names beside them
    | Annotated[Annotated[list[Listed], Field(min_length=1)], Tag("list[entries]")],
    Discriminator(shape),
]


class Merged(Strict):
    base: Annotated[Annotated[str, Tag("str")] | Annotated[Source, Tag("dict[table]")], Discriminator(shape)] | None = None
    method: str = "task_arithmetic"
    vectors: Vectors
    unverified: bool | list[str] = False
    other_base: bool = False
    checks: Checks | None = None
    tune: Tune | None = None
    tokenizer: Literal["base", "union"] | None = None
    post: Literal["svc"] | None = None
    svc_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    device: Literal["auto", "cpu", "cuda", "xpu"] = "auto"  # never part of a key
    options: dict[str, Any] = {}  # every other key of the table: what the method makes of them is checked in the graph

    @model_validator(mode="after")
    def _tuned_by_checks(self) -> Merged:
        if self.tune is not None and self.checks is None:
            raise ValueError('tune = { by = "checks" } needs a checks table to tune for')
        if self.tune is not None and self.tokenizer == "union":
            raise ValueError('tune makes its merges in memory, which tokenizer = "union" does not allow')
        return self

    @model_validator(mode="after")
    def _alpha_has_a_use(self) -> Merged:
        if self.svc_alpha is not None and self.post != "svc":
            raise ValueError('svc_alpha belongs to post = "svc"')
        return self
