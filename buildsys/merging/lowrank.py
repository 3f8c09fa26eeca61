"""A vector as a PEFT LoRA adapter: the best approximation of each matrix by a product of rank R, and how much of it that keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

from buildsys.errors import BuildError
from buildsys.tensors import checkpoints, configuration, folders
from buildsys.tensors.matching import by_token
from buildsys.tensors.vectors import Vector
from buildsys.tensors.writing import Writer

_PREFIX = {"gpt2": "transformer."}


def export(folder: Path, base: Path, rank: int, base_name: str, out: Path) -> dict[str, Any]:
    """Write adapter_config.json and adapter_model.safetensors, float32, α = r, and return what was kept.

    base_name  what the adapter's configuration calls the base
    energy     Σ‖τ_R‖² / Σ‖τ‖² over all tensors: gains, biases and embeddings cannot be in it, and count as lost
    """
    import torch

    from buildsys.merging.spectral import thin_svd

    vector = Vector(folder)
    config = configuration.read(base)
    kind = str(config.get("model_type"))
    turned, prefix = kind in checkpoints.CONV1D, _PREFIX.get(kind, "")
    factors: dict[str, numpy.ndarray[Any, Any]] = {}
    modules, left_out = [], []
    kept = whole = lost = 0.0
    for name in sorted(vector.taus):
        tau = vector.whole(name)
        square = float(numpy.square(tau, dtype=numpy.float64).sum()) if tau is not None else 0.0
        if tau is None or not square:
            continue
        whole += square
        if tau.ndim != 2 or by_token(name) or not name.endswith(".weight"):
            left_out.append(name)
            lost += square
            continue
        matrix = torch.from_numpy(tau.T if turned else tau).double()
        left, values, right = thin_svd(matrix, rank)
        kept += float(values.square().sum())
        module = name.removesuffix(".weight")
        module = module if module.startswith(prefix) else prefix + module
        modules.append(module)
        root = values.sqrt()
        first, second = numpy.zeros((rank, matrix.shape[1]), numpy.float32), numpy.zeros((matrix.shape[0], rank), numpy.float32)
        first[: len(values)], second[:, : len(values)] = (right * root[:, None]).float().numpy(), (left * root).float().numpy()
        factors[f"base_model.model.{module}.lora_A.weight"] = first
        factors[f"base_model.model.{module}.lora_B.weight"] = second
    if not modules:
        raise BuildError("there is no matrix that a LoRA adapter could hold", [("tensors that moved", str(len(left_out)))])
    writer = Writer(out / folders.ADAPTER_FILES[1], {name: ("F32", one.shape) for name, one in factors.items()}, {"format": "pt"})
    for name in sorted(factors):
        writer.write(name, factors[name].reshape(-1))
    writer.close()
    given = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "r": rank, "lora_alpha": rank}
    given |= {"target_modules": modules, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": turned, "inference_mode": True}
    (out / folders.ADAPTER_FILES[0]).write_text(json.dumps(given, indent=1, sort_keys=True) + "\n")
    return {"rank": rank, "modules": len(modules), "energy": kept / whole, "left_out": left_out, "energy_left_out": lost / whole}
