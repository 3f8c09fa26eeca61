"""Task vectors, τ = W_tuned − W_base, and models in memory: taken from one, added to one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from buildsys.errors import BuildError
from buildsys.merging.coefficients import Coefficient, Depths, at
from buildsys.tensors.checkpoints import Entry
from buildsys.tensors.matching import HEADS, mismatch
from buildsys.tensors.vectors import Vector
from buildsys.tensors.writing import Writer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
SPELLED = {dtype: name for name, dtype in TORCH.items()}


def raw(tensor: torch.Tensor) -> memoryview:
    """The tensor's bytes, little-endian, without a copy where it is contiguous already."""
    return memoryview(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of every parameter, each of a tied group once."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def stored_names(model: PreTrainedModel, base: Mapping[str, Entry]) -> dict[str, str]:
    """What each parameter is called in the checkpoint: its own name, or the one without the prefix of the bare model.

    Raises BuildError for a parameter that the checkpoint does not have as it is: its τ could be merged into nothing.
    """
    found, prefix = {}, f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        names = [name, name.removeprefix(prefix), prefix + name]
        fitting = [one for one in names if one in base and base[one].shape == tuple(parameter.shape)]
        if not fitting:
            facts = [("model", f"{list(parameter.shape)}"), ("checkpoint", "has none of this name and shape")]
            hint = "transformers rearranges this architecture as it loads it; save the loaded model with save_pretrained"
            raise BuildError(f"parameter '{name}' is not in the checkpoint", facts, hint)
        found[name] = fitting[0]
    return found


def save(model: PreTrainedModel, before: Mapping[str, torch.Tensor], names: Mapping[str, str], dtype: str, file: Path) -> float:
    """Write τ of every tensor that moved, and return its norm. A tensor that is not in the file has τ = 0.

    names  parameter -> its name in the file, as `stored_names` gives it
    Raises BuildError where a weight is not finite, or nothing moved at all.
    """
    moved: dict[str, torch.Tensor] = {}
    squares = 0.0
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise BuildError(f"tensor '{name}' is not finite after training", hint="lower learning_rate")
        tau = (parameter.detach().float() - before[name].float()).to(getattr(torch, dtype)).cpu()
        if tau.any():
            moved[names[name]] = tau
            squares += float(tau.double().square().sum())
    if not moved:
        raise BuildError(
            "training changed no weight",
            hint="a loss of 0 means that the base prefers the chosen answers already: raise margin, or give other rows",
        )
    writer = Writer(file, {name: (SPELLED[tau.dtype], tuple(tau.shape)) for name, tau in moved.items()}, {})
    for name in sorted(moved):
        writer.write(name, raw(moved[name]))
    writer.close()
    return float(squares**0.5)


@contextmanager
def applied(model: PreTrainedModel, names: Mapping[str, str], vector: Vector) -> Iterator[Callable[[Coefficient], None]]:
    """A function that sets the model to base + α·τ, in place; the base's weights are back when the block ends.

    names  parameter -> its name in the checkpoint, as `stored_names` gives it
    α may be a list over depth or a table of patterns, as a recipe may have it.
    Raises BuildError for a tensor that moves and is no parameter of the model.
    """
    parameters = {names[name]: parameter for name, parameter in model.named_parameters()}
    wholes = {name: vector.whole(name) for name in vector.taus}
    taus = {name: None if whole is None else torch.from_numpy(whole) for name, whole in wholes.items()}
    tied = bool(getattr(model.config, "tie_word_embeddings", False))  # then a stored head moves with its embeddings
    own = {name: tau for name, tau in taus.items() if name in parameters or not (tied and name in HEADS)}
    lacking = [name for name, tau in own.items() if name not in parameters and tau is not None and tau.any()]
    if lacking:
        raise mismatch(lacking[0], None, vector.taus[lacking[0]].shape, "base", "vector")
    found = {name: (parameters[name], tau) for name, tau in taus.items() if name in parameters}
    moving = {name: (p, p.detach().clone(), tau) for name, (p, tau) in found.items() if tau is not None and tau.any()}

    depths = Depths(names.values())

    def apply(coefficient: Coefficient) -> None:
        with torch.no_grad():
            for name, (parameter, base, tau) in moving.items():
                alpha = at(coefficient, name, depths.of(name))
                parameter.copy_(base if not alpha else added(base, tau, alpha))

    try:
        yield apply
    finally:
        apply(0.0)


def added(base: torch.Tensor, tau: torch.Tensor, coefficient: float) -> torch.Tensor:
    """base + α·τ in float32 or better, rounded once to the base's dtype: α·τ first, as a merge does it, to the same bytes."""
    wide = torch.promote_types(base.dtype, torch.float32)
    return base.to(wide).add(tau.to(base.device, wide).mul(coefficient)).to(base.dtype)
