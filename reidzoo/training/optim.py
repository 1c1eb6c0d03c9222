"""Optimisers, their parameter groups, and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return DINO's two groups: matrices with weight decay; vectors and biases without (Caron et al., 2021)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            (plain if p.ndim <= 1 or name.endswith(".bias") else decayed).append(p)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def bias_groups(network: nn.Module, *, lr: float, bias_lr_factor: float) -> list[dict[str, Any]]:
    """Return TransReID's groups: parameters whose name contains ``bias`` learn `bias_lr_factor` times faster.

    The rule goes by the substring, so it covers Swin's ``relative_position_bias_table`` too, as in the published runs.
    ``base_lr`` keeps each group's peak rate for the schedule.
    """
    plain: list[nn.Parameter] = []
    bias: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            (bias if "bias" in name else plain).append(p)
    peak = lr * bias_lr_factor
    groups = [{"params": plain, "lr": lr, "base_lr": lr}, {"params": bias, "lr": peak, "base_lr": peak}]
    return [g for g in groups if g["params"]]


def build_optimizer(
    name: str, groups: list[dict[str, Any]], *, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return ``adamw`` (betas 0.9 and 0.999, fused on a GPU), ``sgd`` or ``lars`` (momentum 0.9) over `groups`."""
    if name == "adamw":
        fused = all(p.is_cuda for g in groups for p in g["params"])
        return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused or None)
    cls = {"sgd": torch.optim.SGD, "lars": LARS}[name]
    optimizer: torch.optim.Optimizer = cls(groups, lr=lr, weight_decay=weight_decay, momentum=0.9)
    return optimizer


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., "Large Batch Training of Convolutional Networks", 2017, eq. 6).

    As in DINO: tensors of one dimension take plain momentum steps, without weight decay and without scaling.

    Args:
        params: parameters or groups.
        lr: global learning rate.
        weight_decay: added to the gradient, before its norm is taken.
        momentum: of the heavy-ball buffer.
        trust: share of a tensor's norm that a step of rate 1 may change.
    """

    def __init__(
        self, params: Any, *, lr: float, weight_decay: float = 0.0, momentum: float = 0.9, trust: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step.

        Args:
            closure: computes the loss again, with gradients; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group)
        return loss

    def _step_one(self, p: Tensor, group: dict[str, Any]) -> None:
        update: Tensor = p.grad  # type: ignore[assignment]
        if p.ndim != 1:
            update = update.add(p, alpha=group["weight_decay"])
            of_p, of_update = p.norm(), update.norm()
            scale = group["trust"] * of_p / of_update
            update = update * torch.where((of_p > 0) & (of_update > 0), scale, torch.ones_like(scale))
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer: Tensor = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(update)
        p.add_(buffer, alpha=-group["lr"])


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale each tensor's gradient to a norm of at most `max_norm`, without waiting for the device.

    DINO clips per tensor, not over all parameters together.
    """
    grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norms = torch._foreach_norm(grads)
        torch._foreach_mul_(grads, [(max_norm / (n + 1e-6)).clamp(max=1.0) for n in norms])
