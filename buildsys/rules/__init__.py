"""One file a rule. A rule makes one kind of artifact and knows neither targets, nor the store, nor doit.

A rule's module has
    VERSION   raised by hand when the same action would give other bytes
    ROLES     input role -> what it is
    PRELOAD   modules that are loaded once for all workers of a build, before the first of them starts
    FLUSH     True where losing the artifact costs training: it is on the disk before it is recorded
    Params    pydantic model of its parameters; all of them enter the key
    run(inputs, params, out, progress) -> facts
and may have
    LATER     fields of Params that enter the key only where they are not at their default: they came after keys were in use
    VALUES    files of its artifact (JSON) that a plan reads
    REFERS    role of a folder whose files the artifact names instead of copying them
    CARRIES   roles whose inputs are handed on beside the artifact's own files
    THREADED  True where it takes `progress.settings["threads"]`: the cores that nobody else of this build has
    MEASURES  True where it takes `progress.settings["measurements"]`: what other actions measured
    RENDERS   role of the model whose chat template it renders: its Params are `Rendering`, and their date enters the key only where
              that template tells the time (`buildsys/rendering.py`)
    SORTED    (role, …): a list role without an order, and the list roles and parameters that have an entry for each of its own
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import ModuleType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

CODE = "files"  # role of the user's files that may run: a judge's source, all files of a task
MODELS = ("torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto")  # what it takes to load a model


class Strict(BaseModel):
    """A table whose keys and types are all checked."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


DATE = "template_date"


def _iso(given: Any) -> Any:
    """A date of TOML's as its text."""
    return given.isoformat() if isinstance(given, date) and not isinstance(given, datetime) else given


def _day(text: str) -> str:
    try:
        if date.fromisoformat(text).isoformat() == text and text >= "1970":
            return text
    except ValueError:
        pass
    raise ValueError(f"template_date is '{text}', expected a date from 1970 on, as \"2026-01-31\"")


Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Day = Annotated[str, BeforeValidator(_iso), AfterValidator(_day)]


class Rendering(Strict):
    """Parameters of a step that renders a chat template. The date is what the template's clock shows; None: it has to ask for none."""

    template_date: Day | None = None

    @model_serializer(mode="wrap")
    def _without_an_absent_date(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it was before there was a date, or every key would be another."""
        return {name: value for name, value in plain(self).items() if name != DATE or value is not None}


@dataclass(frozen=True)
class Inputs:
    """What a rule reads: for each role a path, or a list of them, and its digest as the key has it."""

    paths: Mapping[str, Any]
    digests: Mapping[str, Any]

    def __getitem__(self, role: str) -> Any:
        return self.paths[role]

    def __contains__(self, role: str) -> bool:
        return role in self.paths


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> ModuleType:
    """The rule's module; a dotted name is one that a test brings."""
    return importlib.import_module(name if "." in name else f"{__name__}.{name}")


def preload(names_of_rules: Sequence[str]) -> tuple[str, ...]:
    """Every module that these rules want loaded, in the order of their first mention."""
    return tuple(dict.fromkeys(module for name in names_of_rules for module in get(name).PRELOAD))
