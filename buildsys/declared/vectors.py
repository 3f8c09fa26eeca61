"""`[vector.*]`: vectors that are not trained here: from a model, an adapter, a model target, or other vectors."""

from __future__ import annotations

from buildsys import outside
from buildsys.declared import bases, behaviors, provenance, verification
from buildsys.declared.reader import Inputs, Reader, Where
from buildsys.errors import nearest
from buildsys.graph import Folder, Output, Rows, Step, Target
from buildsys.tables import Listed, Vector


def add(reader: Reader, name: str, given: Vector) -> None:
    where, target = ("vector", name), f"vector-{name}"
    examples = reader.rows((*where, "icl", "examples"), given.icl.examples, "all") if given.icl else None
    reader.node(where, given.node)
    exact = behaviors.exactly(target, given.store)
    if given.analogy is not None or given.sum is not None:
        steps = _combined(reader, exact, target, where, given)
        base = _base_of_parts(reader, where, given) if steps else None
    else:
        base = reader.base(where, given.base)
        steps = _shown(reader, exact, target, given, base, examples) if given.icl else taken(reader, exact, target, where, given, base)
    if steps:
        steps += behaviors.packed(reader, target, given.store, given.store_density)
    if base is None or not steps:
        return
    reader.targets.append(Target(target, "vector", target, tuple(steps), given.node))
    if given.verify is None:
        return
    if given.verify.rows is None and given.verify.lm_eval is None:
        reader.file.problem((*where, "verify"), "'rows' is missing: no examples belong to this vector")
        return
    rows = None if given.verify.rows is None else reader.rows((*where, "verify", "rows"), given.verify.rows, "all")
    if rows is not None or given.verify.rows is None:
        shape = "" if rows is None else outside.parsed_rows(rows, reader.observer)["shape"]
        verification.add(reader, name, where, given.verify, base, rows, shape, given.node, provenance.seen_by(reader, name))


def _shown(reader: Reader, step: str, target: str, given: Vector, base: str | None, examples: Rows | None) -> list[str]:
    """The step that makes a vector of examples in the context."""
    assert given.icl is not None
    if base is None or examples is None:
        return []
    parameters = given.icl.model_dump(exclude={"examples", "seed"})
    parameters["seed"] = reader.file.build.seed if given.icl.seed is None else given.icl.seed
    parameters["template_date"] = given.icl.template_date or reader.file.build.template_date
    reader.add(Step(step, target, "icl", parameters, {"base": Output(base), "examples": examples}))
    return [step]


def taken(reader: Reader, step: str, target: str, where: Where, given: Vector | Listed, base: str | None) -> list[str]:
    """Steps that make a vector from a model or an adapter; none where something is wrong with it."""
    if given.adapter is not None:
        folder = Folder(reader.place(given.adapter), adapter=True)
        if "adapter_config.json" not in reader.observer.names(folder.path):
            hint = "an adapter's folder has adapter_config.json and adapter_model.safetensors"
            reader.file.problem((*where, "adapter"), f"'{given.adapter}' is not an adapter folder", hint)
        reader.check(folder)
        if base is None:
            return []
        reader.add(Step(step, target, "adapter", {"dtype": given.dtype}, {"base": Output(base), "folder": folder}))
        return [step]
    if given.of is not None:
        model, steps = model_target(reader, (*where, "of"), given.of), []
    else:
        model, steps = f"{step}:model", [f"{step}:model"]
        bases.model(reader, model, target, where, given)
    if base is None or model is None:
        return []
    if model == base:
        reader.file.problem((*where, "of"), f"{model} less itself is nothing", "name the base that it was made from")
        return []
    inputs: Inputs = {"base": Output(base), "model": Output(model)}
    reader.add(Step(step, target, "extract", {"dtype": given.dtype}, inputs))
    return [*steps, step]


def model_target(reader: Reader, where: Where, name: str) -> str | None:
    """The step of a model target, by its full name."""
    file, known = reader.file, reader.model_names
    if name not in known:
        close = nearest(name, known)
        hint = f"the nearest is '{close}'" if close else f"models are {', '.join(known) or 'none'}"
        file.problem(where, f"there is no model target '{name}'", hint)
        return None
    kind, _, rest = name.partition("-")
    return name if rest in getattr(file, kind) else None


def _combined(reader: Reader, step: str, target: str, where: Where, given: Vector) -> list[str]:
    parts = _parts(given)
    known = reader.vector_names
    unknown = [name for name, _ in parts if name not in known]
    for name in unknown:
        close = nearest(name, known)
        hint = f"the nearest vector is '{close}'" if close else f"vectors are {', '.join(known) or 'none'}"
        reader.file.problem((*where, "sum" if given.sum else "analogy", name), f"there is no vector '{name}'", hint)
    if all(coefficient == 0 for _, coefficient in parts):
        reader.file.problem((*where, "sum"), "all coefficients are 0: the vector would be 0")
        return []
    if unknown:
        return []
    names = [name for name, _ in parts]
    parameters = {"coefficients": [coefficient for _, coefficient in parts], "dtype": given.dtype}
    inputs: Inputs = {"vectors": tuple(Output(f"vector-{name}") for name in names)}
    reader.add(Step(step, target, "combine", parameters, inputs, labels={"vectors": names, "coefficients": names}))
    return [step]


def _parts(given: Vector) -> list[tuple[str, float]]:
    """(vector, coefficient) of a sum or an analogy. Ilharco et al. 2022, section 5: τ_D = λ₁·τ_C + λ₂·(τ_B − τ_A)."""
    if given.sum is not None:
        return list(given.sum.items())
    assert given.analogy is not None
    named = given.analogy
    return [(named.a, -named.relation), (named.b, named.relation), (named.c, named.coefficient)]


def _base_of_parts(reader: Reader, where: Where, given: Vector) -> str | None:
    """The one base that all parts come from."""
    found: dict[str, str] = {}
    for name, _ in _parts(given):
        base = _base_of_table(reader, name)
        if base is not None:
            found[name] = base
    names = list(found)
    for name in names[1:]:
        if not reader.same_base(found[name], found[names[0]]):
            text = f"'{names[0]}' is taken from {found[names[0]]}, and '{name}' from {found[name]}"
            reader.file.problem(where, text, "vectors of one sum come from one base")
            return None
    if given.base is not None:
        own = reader.base(where, given.base)
        if own is not None and names and not reader.same_base(own, found[names[0]]):
            reader.file.problem((*where, "base"), f"its parts are taken from {found[names[0]]}", "leave 'base' out")
            return None
    return found[names[0]] if names else None


def _base_of_table(reader: Reader, name: str) -> str | None:
    """What a vector's table says of its base; that of its first part for a sum. Problems are reported with the table itself."""
    file, known = reader.file, reader.file.known["base"]
    walk = [name]
    walked: dict[str, None] = {}
    straight = True
    while walk:
        part = walk.pop()
        table = None if part in walked else file.behavior.get(part) or file.vector.get(part)
        base = reader.bases_of_tables.get(part)
        walked[part] = None
        if base is None and isinstance(table, Vector) and (table.sum is not None or table.analogy is not None):
            walk += [inner for inner, _ in reversed(_parts(table))]
            continue
        if base is None and table is not None:
            given = table.base or (known[0] if len(known) == 1 else None)
            base = given if given is None or given.startswith("merged-") else f"base-{given}"
        if base is not None:
            reader.bases_of_tables.update(dict.fromkeys(walked if straight else [name], base))
            return base
        straight = False  # what was walked is no longer a chain of first parts
    return None
