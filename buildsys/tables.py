"""What each table of a Buildfile may say: keys, types, defaults. Reads no file and looks up no name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from buildsys.rules import Strict, pretrain, train

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Build(Strict):
    default: list[str] = []
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Graph(Strict):
    nodes: str | None = None


class Keep(Strict):
    rows: str
    weight: Positive = 1.0


class Train(train.Settings):
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None  # None: that of [build]
    keep: Keep | None = None
    save_steps: Annotated[int, Field(ge=1)] | None = None  # None: every few seconds; never part of a key


class Verify(Strict):
    rows: str | None = None
    metric: Literal["preference", "loss"] | None = None
    min_gain: Share = 0.0
    coefficients: Annotated[list[Positive], Field(min_length=1)] = [0.1, 0.25, 0.5, 0.75, 1.0]
    control: str | dict[Name, str] | None = None
    max_forgetting: Share | dict[str, Share] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_length: Annotated[int, Field(ge=2)] = 1024
    threads: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _gates_have_a_control_set(self) -> Verify:
        names = set(self.controls())
        if isinstance(self.max_forgetting, dict):
            unknown = sorted(set(self.max_forgetting) - names)
            if unknown:
                raise ValueError(f"max_forgetting names '{unknown[0]}', which is no control set")
        elif self.max_forgetting is not None and not names:
            raise ValueError("max_forgetting needs a 'control' set to be measured on")
        return self

    def controls(self) -> dict[str, str]:
        """Control set -> its file."""
        if isinstance(self.control, str):
            return {"control": self.control}
        return dict(self.control or {})

    def gate(self, control: str) -> float | None:
        if isinstance(self.max_forgetting, dict):
            return self.max_forgetting.get(control)
        return self.max_forgetting


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


class Behavior(Strict):
    node: str | None = None
    base: str | None = None
    examples: str
    train: Train = Train()
    verify: Verify = Verify()


class Vector(_FromSomewhere):
    node: str | None = None
    base: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    verify: Verify | None = None

    @model_validator(mode="after")
    def _has_one_source(self) -> Vector:
        self._one_source()
        return self


class Merged(Strict):
    base: str | None = None
    method: str = "task_arithmetic"
    vectors: Annotated[dict[str, Any], Field(min_length=1)]  # coefficients are checked with the names beside them
    unverified: bool | list[str] = False
    options: dict[str, Any] = {}  # every other key of the table: what the method makes of them is checked in the graph
