"""APOLLO and APOLLO-Mini (Zhu et al. 2024, arXiv 2412.05270, algorithm 1): the thin state around the pure updates, as an optimiser.

No tensor of a matrix's full size is made: the limiter and α are folded into one factor a channel, and the gradient is added to the
weights through it. Projections are drawn anew for every update on a CPU, where that costs nothing beside the work with them: Gaussian ones,
the paper's, with rank 1, and a sketch of signs above (`updates.sparse_projection`), since the product was four fifths of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from buildsys.training import loops
from buildsys.training.updates import (
    SparseSigns,
    adamw_update,
    add_scaled,
    apollo_factors,
    gathered_gradients,
    gaussian_projection,
    multiplied_gradients,
    no_projection,
    random_key,
    sparse_projection,
)

_STACKED = 1 << 21  # compressed numbers of matrices that are worked on together: their scratch stays small, and in the caches


@dataclass
class _Stack:
    """Matrices of one shape with their state in one tensor each, so that a small operation is one call for all of them.

    side, large   of each matrix; tall: its rows are the large side
    exp_avg, exp_avg_sq  (n, rank, large) float32; limited_norm: (n,)
    """

    names: list[str]
    parameters: list[torch.nn.Parameter]
    side: int
    large: int
    tall: bool
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor
    limited_norm: torch.Tensor
    update: int = 0

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, torch.nn.Parameter]], rank: int) -> _Stack:
        rows, columns = pairs[0][1].shape
        side, large = min(rows, columns), max(rows, columns)
        device = pairs[0][1].device
        exp_avg = torch.zeros(len(pairs), min(rank, side), large, device=device)
        limited = torch.zeros(len(pairs), device=device)
        return cls([n for n, _ in pairs], [p for _, p in pairs], side, large, rows > columns, exp_avg, torch.zeros_like(exp_avg), limited)

    @property
    def rank(self) -> int:
        return self.exp_avg.shape[1]

    def state(self, position: int) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of one matrix: views, so that what is loaded into them is the state."""
        own = {"exp_avg": self.exp_avg[position], "exp_avg_sq": self.exp_avg_sq[position], "limited_norm": self.limited_norm[position]}
        return {"step": torch.tensor(self.update), **own}


class Apollo(torch.optim.Optimizer):
    """APOLLO for matrices, Adam for what is no matrix; weight decay is decoupled, and for matrices only.

    named            (name, parameter) pairs: a tensor's projections depend on its name
    rank             at most the small side of each matrix; 1 with `mini`
    update_proj_gap  updates for which one projection stays
    seed             of the projections, and of the rounding of 16-bit weights

    The state of an (m, n) matrix is 2 · rank · max(m, n) numbers and two scalars, float32 whatever the weights are.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        lr: float,
        rank: int,
        mini: bool = False,
        update_proj_gap: int = 200,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        pairs = list(named)
        self.rank, self.mini, self.update_proj_gap, self.seed = 1 if mini else rank, mini, update_proj_gap, seed
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__([{"params": [parameter for _, parameter in pairs]}], defaults)
        self._names = {parameter: name for name, parameter in pairs}
        self._vectors = [parameter for _, parameter in pairs if parameter.dim() != 2]
        self._stacks = list(_stacks([pair for pair in pairs if pair[1].dim() == 2], self.rank))
        self._projections: dict[str, tuple[int, torch.Tensor]] = {}  # on an accelerator only; `state_bytes` counts them
        self._fused = False
        self._directions: dict[str, torch.Tensor] = {}
        self._spread = False

    def begin_from(self, directions: Mapping[str, torch.Tensor], *, spread: bool) -> None:
        """Begin with a history: moments and norm as after one update whose gradient, as large as the first, pointed against a direction.

        directions  matrix -> the change that is expected of it, in its shape
        spread      add it to the weights as well: after update t the share (1 − β1)·β1^(t−1), which is all of it in the end. Moments alone
                    only scale the gradient: they could not bring a direction in.
        """
        self._directions, self._spread = dict(directions), spread
        pairs = [pair for stack in self._stacks for pair in zip(stack.names, stack.parameters, strict=True)]
        own = [pair for pair in pairs if pair[0] in directions]
        rest = [pair for pair in pairs if pair[0] not in directions]
        self._stacks = [*_stacks(own, self.rank), *_stacks(rest, self.rank)]  # those with a history count one update more

    def fuse(self) -> None:
        """Apply each update as soon as its gradient is there, inside the backward pass, and drop the gradient: full ones never coexist.

        One backward pass is one update then: gradients cannot be accumulated, nor clipped by their common norm.
        """
        self._fused = True
        self._stacks = [  # of one matrix each: it is updated as soon as its own gradient is there
            _Stack.of([(name, parameter)], self.rank)
            for stack in self._stacks
            for name, parameter in zip(stack.names, stack.parameters, strict=True)
        ]
        own: dict[torch.nn.Parameter, _Stack | None] = {stack.parameters[0]: stack for stack in self._stacks}
        for parameter in (*own, *self._vectors):
            stack = own.get(parameter)
            parameter.register_post_accumulate_grad_hook(lambda p, stack=stack: self._at_once(p, stack))

    @torch.no_grad()
    def _at_once(self, parameter: torch.Tensor, stack: _Stack | None) -> None:
        if stack is None:
            self._step_vector(parameter)
        else:
            self._step_stack(stack)
        parameter.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._fused:
            for stack in self._stacks:
                self._step_stack(stack)
            for parameter in self._vectors:
                if parameter.grad is not None:
                    self._step_vector(parameter)
        return loss

    def state_bytes(self) -> int:
        """Bytes that the optimiser keeps between updates, projections included."""
        kept = [tensor for stack in self._stacks for tensor in (stack.exp_avg, stack.exp_avg_sq, stack.limited_norm)]
        kept += [tensor for parameter in self._vectors for tensor in self.state[parameter].values()]
        kept += [projection for _, projection in self._projections.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def state_dict(self) -> dict[str, Any]:
        for stack in self._stacks:
            for position, parameter in enumerate(stack.parameters):
                if stack.update:
                    self.state[parameter] = stack.state(position)
        return super().state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state, in float32: torch's own way would round it to the dtype of the weights."""
        super().load_state_dict({**state_dict, "state": {}})
        (group,) = self.param_groups
        loaded = {group["params"][place]: values for place, values in state_dict["state"].items()}
        for stack in self._stacks:
            for position, parameter in enumerate(stack.parameters):
                if parameter in loaded:
                    stack.update = int(loaded[parameter]["step"])
                    for name, tensor in stack.state(position).items():
                        tensor.copy_(loaded[parameter][name])
        for parameter in self._vectors:
            if parameter in loaded:
                device = parameter.device
                self.state[parameter] = {n: t.clone() if n == "step" else t.to(device, copy=True) for n, t in loaded[parameter].items()}

    def _step_vector(self, parameter: torch.Tensor) -> None:
        (group,) = self.param_groups
        state, gradient = self.state[parameter], parameter.grad.float()  # type: ignore[union-attr]
        if not state:
            state["step"] = torch.tensor(0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        state["step"] += 1
        update = int(state["step"])
        moved = adamw_update(gradient, state["exp_avg"], state["exp_avg_sq"], update, **_betas(group))
        key = random_key(self.seed, self._names[parameter], "round", update)  # type: ignore[index]
        flat = parameter.data.view(1, -1)
        add_scaled(flat, moved.view(1, -1), torch.ones(1, 1, device=moved.device), -group["lr"], 1.0, key)

    def _step_stack(self, stack: _Stack) -> None:
        if any(parameter.grad is None for parameter in stack.parameters):
            if all(parameter.grad is None for parameter in stack.parameters):
                return
            for parameter in stack.parameters:  # a matrix that this batch did not reach: its gradient is 0
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        (group,) = self.param_groups
        if stack.update == 0 and stack.names[0] in self._directions:
            self._remember(stack, group)
        stack.update += 1
        gradients = [parameter.grad.float() for parameter in stack.parameters]  # type: ignore[union-attr]
        factors = self._factors(stack, gradients, group)
        kept = 1 - group["lr"] * group["weight_decay"]
        for name, parameter, own in zip(stack.names, stack.parameters, factors, strict=True):
            key = random_key(self.seed, name, "round", stack.update) if parameter.dtype != torch.float32 else 0
            broadcast = own[:, None] if stack.tall else own[None, :]
            add_scaled(parameter.data, parameter.grad, broadcast, -group["lr"], kept, key)  # type: ignore[arg-type]
            if self._spread and name in self._directions:
                beta, direction = group["betas"][0], self._directions[name].to(parameter.device)
                share, whole = (1 - beta) * beta ** (stack.update - 2), torch.ones(1, 1, device=parameter.device)
                add_scaled(parameter.data, direction, whole, share, 1.0, key ^ 1)

    def _factors(self, stack: _Stack, gradients: Sequence[torch.Tensor], group: Mapping[str, Any]) -> torch.Tensor:
        """One factor a channel of every gradient; the stack's moments and norms go on by an update."""
        compressed, norms = self._compressed(stack, gradients)
        factors, limited = apollo_factors(
            compressed, norms, stack.exp_avg, stack.exp_avg_sq, stack.limited_norm, stack.update, stack.side,
            per_channel=not self.mini, **_betas(group),
        )  # fmt: skip
        stack.limited_norm.copy_(limited)
        return factors

    def _remember(self, stack: _Stack, group: Mapping[str, Any]) -> None:
        """The update before the first: its gradient points against the direction and is as large as the one that is there now."""
        stack.update = 1
        imagined = []
        for name, parameter in zip(stack.names, stack.parameters, strict=True):
            direction = self._directions[name].to(parameter.device, torch.float32)
            size = torch.linalg.vector_norm(parameter.grad.float()) / torch.linalg.vector_norm(direction).clamp(min=1e-12)  # type: ignore[union-attr]
            imagined.append(direction * -size)
        self._factors(stack, imagined, group)

    def _compressed(self, stack: _Stack, gradients: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """R = P·G, and norms of channels or of the whole: sums of rows on a CPU, products with the same P on an accelerator."""
        device, epoch = gradients[0].device, (stack.update - 1) // self.update_proj_gap
        if device.type == "cpu" and not self.mini:
            return gathered_gradients(gradients, [self._signs(name, stack, epoch) for name in stack.names], stack.tall)
        drawn: list[torch.Tensor] = [torch.empty(0)] * len(gradients)

        def draw(position: int) -> None:
            drawn[position] = self._projection(stack.names[position], stack, epoch, device)

        loops.side_by_side([partial(draw, position) for position in range(len(drawn))])
        return multiplied_gradients(gradients, drawn, stack.tall, per_channel=not self.mini)

    def _signs(self, name: str, stack: _Stack, epoch: int) -> SparseSigns:
        if stack.rank == stack.side:  # nothing to compress: exact
            return no_projection(stack.side)
        return sparse_projection(stack.rank, stack.side, (self.seed, name, epoch))

    def _projection(self, name: str, stack: _Stack, epoch: int, device: torch.device) -> torch.Tensor:
        """Dense. An accelerator keeps it for as long as it stays."""
        known = self._projections.get(name)
        if known is not None and known[0] == epoch:
            return known[1]
        if stack.rank == stack.side:
            return torch.eye(stack.side, device=device)
        if self.mini:
            drawn = gaussian_projection(stack.rank, stack.side, (self.seed, name, epoch))
        else:
            drawn = self._signs(name, stack, epoch).dense()
        if device.type != "cpu":
            drawn = drawn.to(device)
            self._projections[name] = epoch, drawn
        return drawn


def _stacks(pairs: Sequence[tuple[str, torch.nn.Parameter]], rank: int) -> Iterator[_Stack]:
    """The matrices, those of one shape, dtype and device together, as many as fit the scratch."""
    alike: dict[object, list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in pairs:
        alike.setdefault((tuple(parameter.shape), parameter.dtype, parameter.device), []).append((name, parameter))
    for found in alike.values():
        rows, columns = found[0][1].shape
        most = max(1, _STACKED // (min(rank, rows, columns) * max(rows, columns)))
        yield from (_Stack.of(found[start : start + most], rank) for start in range(0, len(found), most))


def _betas(group: Mapping[str, Any]) -> dict[str, float]:
    return {"beta1": group["betas"][0], "beta2": group["betas"][1], "epsilon": group["eps"]}
