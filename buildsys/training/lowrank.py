"""LoRA (Hu et al. 2021): low-rank factors beside frozen matrices while training, added into them afterwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from buildsys.errors import BuildError
from buildsys.training.updates import gaussian_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Factors:
    """A and B of every linear layer whose matrix would be trained: y ← y + α/r · B·A·x. B begins at 0, A is N(0, 1/r).

    The matrices themselves are frozen. Raises BuildError for a model that has none.
    """

    def __init__(self, model: PreTrainedModel, r: int, lora_alpha: float, seed: int) -> None:
        self.scale = lora_alpha / r
        self._pairs: list[tuple[torch.nn.Parameter, torch.nn.Parameter, torch.nn.Parameter, bool]] = []
        self.named: list[tuple[str, torch.nn.Parameter]] = []
        self._hooks = []
        head = model.get_output_embeddings()  # its matrix may be that of the embeddings
        layers = [(name, module) for name, module in model.named_modules() if module is not head and _takes_part(module)]
        if not layers:
            raise BuildError("the model has no linear layer for low-rank factors", [("model", type(model).__name__)])
        model.requires_grad_(False)
        for name, module in layers:
            weight: Any = module.weight
            crossed = type(module).__name__ == "Conv1D"  # GPT-2's: (inputs, outputs)
            outputs, inputs = weight.shape[::-1] if crossed else weight.shape
            rank = min(r, outputs, inputs)
            drawn = gaussian_projection(rank, inputs, (seed, name, "lora")).to(weight.device)
            down = torch.nn.Parameter(drawn * math.sqrt(rank / r))
            up = torch.nn.Parameter(torch.zeros(outputs, rank, device=weight.device))
            module.register_parameter("lora_A", down)
            module.register_parameter("lora_B", up)
            self._hooks.append(module.register_forward_hook(self._added))
            self._pairs.append((weight, down, up, crossed))
            self.named += [(f"{name}.lora_A", down), (f"{name}.lora_B", up)]

    def _added(self, module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        wide = given[0].to(module.lora_A.dtype) @ module.lora_A.T @ module.lora_B.T
        added: torch.Tensor = out + (self.scale * wide).to(out.dtype)
        return added

    @torch.no_grad()
    def expand(self, model: PreTrainedModel) -> None:
        """Add every product into its matrix, and take the factors away."""
        for hook in self._hooks:
            hook.remove()
        for weight, down, up, crossed in self._pairs:
            product = self.scale * (up @ down)
            weight.copy_((weight.float() + (product.T if crossed else product)).to(weight.dtype))
        for module in model.modules():
            for name in ("lora_A", "lora_B"):
                if name in module._parameters:
                    del module._parameters[name]


def _takes_part(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    linear = isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    return linear and isinstance(weight, torch.nn.Parameter) and weight.requires_grad
