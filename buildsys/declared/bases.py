"""`[base.*]`: a model made here, in a folder, or on the Hub."""

from __future__ import annotations

from buildsys.declared.reader import Inputs, Reader, Where
from buildsys.graph import Folder, Step, Target, Text
from buildsys.tables import Base, Listed, Source, Vector
from buildsys.tensors import folders


def add(reader: Reader, name: str, given: Base) -> None:
    target = f"base-{name}"
    if given.pretrain is not None:
        settings = given.pretrain
        parameters = settings.model_dump(exclude={"corpus", "save_steps", "seed"})
        parameters["seed"] = reader.file.build.seed if settings.seed is None else settings.seed
        corpus = reader.observer.glob(reader.root, settings.corpus)
        if not corpus:
            reader.file.problem(("base", name, "pretrain", "corpus"), f"no file matches '{settings.corpus}'")
        inputs: Inputs = {"corpus": tuple(Text(path) for path in corpus)}
        recipe: tuple[tuple[str, str], ...] = (("pre-trained on", settings.corpus),)
        reader.add(Step(target, target, "pretrain", parameters, inputs, settings={"save_steps": settings.save_steps}))
    else:
        recipe = model(reader, target, target, ("base", name), given)
    reader.targets.append(Target(target, "base", target, (target,), recipe=recipe))


def model(
    reader: Reader, step: str, target: str, where: Where, given: Base | Vector | Listed | Source
) -> tuple[tuple[str, str], ...]:  # fmt: skip
    """A step that names an existing model; returns what a model card says of it."""
    if given.hub is not None:
        reader.add(Step(step, target, "model", {"hub": given.hub, "revision": given.revision}))
        return (("hub", f"{given.hub} at {given.revision}"),)
    folder = reader.place(given.path or "")
    if not folders.model_files(reader.observer.names(folder)):
        hint = "a model folder has config.json and model.safetensors"
        reader.file.problem((*where, "path"), f"'{given.path}' is not a model folder", hint)
    reader.add(Step(step, target, "model", {"hub": None, "revision": None}, {"folder": Folder(folder)}))
    return (("folder", str(given.path)),)
