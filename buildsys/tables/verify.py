"""What a Buildfile may say of verification: metrics, gates, control sets, checks of a merge, and the search for its coefficients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from buildsys import strict
from buildsys.evaluation.names import FALLING, MetricName
from buildsys.rules import Day, Strict, evaluate, search, tune
from buildsys.tables.types import Finite, Limit, Name, Positive, Share, bounded, shape

_PATTERN_MAX = 1000


class Measure(Strict):
    """A set of rows and the metric that is taken on it."""

    rows: str | None = None
    metric: MetricName | None = None
    contains: str | Annotated[list[str], Field(min_length=1)] | None = None  # metric = "contains" alone: the row's own answer
    regex: str | None = None
    judge: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None  # "module:function" of a file beside the Buildfile
    lm_eval: evaluate.Task | None = None
    generate: evaluate.Generate | None = None

    @model_validator(mode="after")
    def _has_one_metric(self) -> Measure:
        implied = [name for name in ("contains", "regex", "judge", "lm_eval") if getattr(self, name) is not None]
        if len(implied) > 1:
            raise ValueError(f"has {' and '.join(implied)}: one metric a set")
        if implied and self.metric not in (None, implied[0]):
            raise ValueError(f"metric = '{self.metric}' has no '{implied[0]}'")
        if self.metric in ("regex", "judge", "lm_eval") and self.metric not in implied:
            raise ValueError(f"metric = '{self.metric}' needs '{self.metric}'")
        if self.regex is not None:
            try:
                strict.pattern(self.regex, _PATTERN_MAX)
            except strict.Malformed as error:
                raise ValueError(f"regex {error}") from error
        if self.generate is not None and (implied[0] if implied else self.metric) not in ("contains", "regex"):
            raise ValueError("generate belongs to the metrics 'contains' and 'regex'")
        if self.lm_eval is not None and self.rows is not None:
            raise ValueError("a task of lm_eval brings its own rows")
        return self

    def named(self, default: MetricName) -> MetricName:
        """The metric that is meant."""
        for name in _IMPLYING:
            if getattr(self, name) is not None:
                return name
        return self.metric or default

    def texts(self) -> list[str]:
        return [self.contains] if isinstance(self.contains, str) else list(self.contains or [])


_IMPLYING: tuple[MetricName, ...] = ("contains", "regex", "judge", "lm_eval")


class Control(Measure):
    """What a vector must leave alone."""

    max_forgetting: Limit | None = None
    min_metric: Finite | None = None


_Controlled = Annotated[Annotated[str, Tag("str")] | Annotated[Control, Tag("dict[table]")], Discriminator(shape)]
_Controls = Annotated[Annotated[str, Tag("str")] | Annotated[dict[Name, _Controlled], Tag("dict[table]")], Discriminator(shape)]
_Coefficients = Annotated[
    Annotated[Annotated[list[Positive], Field(min_length=1)], Tag("list[entries]")]
    | Annotated[Literal["search"], Tag("str")]
    | Annotated[search.Settings, Tag("dict[table]")],
    Discriminator(shape),
]


def _controls(given: str | dict[str, str | Control] | None) -> dict[str, Control]:
    found: dict[str, str | Control] = {"control": given} if isinstance(given, str) else dict(given or {})
    return {name: Control(rows=one) if isinstance(one, str) else one for name, one in found.items()}


class Verify(Measure):
    direction: Literal["raise", "reduce"] = "raise"
    min_gain: Share = 0.0
    min_metric: Finite | None = None
    reduce: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None  # by what factor the behaviour's odds must fall
    coefficients: _Coefficients = [0.1, 0.25, 0.5, 0.75, 1.0]
    control: _Controls | None = None
    max_forgetting: Limit | dict[str, Limit] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_length: Annotated[int, Field(ge=2)] = 1024
    template_date: Day | None = None  # None: that of [build]
    threads: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _gates_have_a_control_set(self) -> Verify:
        names = set(self.controls())
        if isinstance(self.max_forgetting, dict):
            unknown = sorted(set(self.max_forgetting) - names)
            if unknown:
                raise ValueError(f"max_forgetting names '{unknown[0]}', which is no control set")
        elif bounded(self.max_forgetting) is not None and not names:
            raise ValueError("max_forgetting needs a 'control' set to be measured on")
        return self

    @model_validator(mode="after")
    def _gates_can_be_reached(self) -> Verify:
        if self.direction == "raise" and self.reduce is not None:
            raise ValueError('reduce belongs to direction = "reduce"')
        if self.direction == "reduce" and self.min_metric is not None:
            raise ValueError('min_metric asks for more of a behaviour, direction = "reduce" for less')
        if isinstance(self.coefficients, search.Settings) and self.coefficients.start > self.coefficients.most:
            raise ValueError("the search starts above its end")
        metric = self.named("preference")
        unbounded = metric in ("judge", "lm_eval") or (metric in FALLING and self.direction == "reduce")
        if not unbounded and self.min_gain > 1:
            raise ValueError(f"min_gain = {self.min_gain:g} cannot be reached: 1 is all that {metric} can gain")
        return self

    def controls(self) -> dict[str, Control]:
        """Control set -> what is measured on it."""
        return _controls(self.control)

    def gate(self, control: str) -> float | None:
        own, every = self.controls()[control].max_forgetting, self.max_forgetting
        return bounded(own if own is not None else every.get(control) if isinstance(every, dict) else every)


class Checks(Strict):
    """What a merged model has to keep of its vectors, and what it may cost."""

    max_loss_of_gain: Annotated[float, Field(ge=0, le=1)] | None = None  # share of what each vector alone gains
    control: _Controls | None = None  # beside those of its vectors
    max_forgetting: Limit | dict[str, Limit] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95

    def controls(self) -> dict[str, Control]:
        return _controls(self.control)


class Tune(tune.Settings):
    """A search for the coefficients of a merge."""

    by: Literal["checks"] = "checks"
    control: str | Annotated[list[str], Field(min_length=1)] | None = None  # None: sequences that the base itself is asked for
    samples: Annotated[int, Field(ge=20)] = 200  # how many of them
    rows: dict[str, str] = {}  # vector -> rows to tune it on, where it has no examples

    def files(self) -> list[str]:
        return [self.control] if isinstance(self.control, str) else list(self.control or [])
