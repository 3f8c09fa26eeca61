"""Which steps render a chat template that tells the time: the keys of those alone have a date. Decides it from files, and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buildsys import outside, regular, rules
from buildsys.examples import templates
from buildsys.graph import Folder, Graph, Output, Rows, Step
from buildsys.rules import DATE
from buildsys.store.cache import Cache
from buildsys.store.observe import Observer
from buildsys.store.records import Artifact
from buildsys.tensors import folders


@dataclass(frozen=True)
class Rendering:
    """The templates of one graph's models, looked at once for each model."""

    graph: Graph
    cache: Cache
    observer: Observer
    _models: dict[str, bool] = field(default_factory=dict)

    def parameters(self, step: Step, given: Mapping[str, Any], artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
        """A step's parameters, without a date unless the template that the step renders asks for one."""
        role = getattr(rules.get(step.rule), "RENDERS", None)
        if role is None:
            return dict(given)
        model = step.inputs[role]
        assert isinstance(model, Output)
        dated = self._reads_clock(model.step, artifacts[model.step]) and any(self._may_be_rendered(source) for source in step.sources())
        return dict(given) if dated else {name: _undated(value) for name, value in given.items() if name != DATE}

    def _may_be_rendered(self, source: Any) -> bool:
        """Conversations, fetched rows, and code of the user's, which is handed the tokenizer."""
        if isinstance(source, Rows):
            return outside.hold_conversations(source, self.observer)
        if isinstance(source, Output):
            return self.graph.steps[source.step].rule == "dataset"
        return not isinstance(source, Folder)

    def _reads_clock(self, name: str, artifact: Artifact) -> bool:
        if name not in self._models:
            files = {**artifact.files, **artifact.references}
            self._models[name] = any(self._file_reads_clock(name, artifact, file) for file in templates.FILES if file in files)
        return self._models[name]

    def _file_reads_clock(self, step: str, artifact: Artifact, name: str) -> bool:
        def look(path: str) -> str:
            return "clock" if templates.reads_clock(name, regular.read(path, folders.SETTINGS_BYTES_MAX)) else ""

        path = self._path(step, artifact, name)
        if self.observer.size(path) is None:
            self.observer.forget(path)  # a step may have brought it back since
        try:
            return bool(self.observer.derived(path, f"clock of {name}", look))
        except OSError:  # its bytes are not here: a key that differs is looked at again once they are, when the step is to run
            return True

    def _path(self, step: str, artifact: Artifact, name: str) -> Path:
        if name in artifact.files:
            return self.cache.objects.path(artifact.files[name][0])
        return next(source.path / name for source in self.graph.steps[step].sources() if isinstance(source, Folder))


def _undated(value: Any) -> Any:
    """Without the date of anything that it holds: a search has one for each of its sets."""
    if isinstance(value, Mapping):
        return {name: _undated(inner) for name, inner in value.items() if name != DATE}
    return [_undated(inner) for inner in value] if isinstance(value, list) else value
