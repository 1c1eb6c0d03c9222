"""Parameter groups and gradient clipping."""

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


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale each tensor's gradient to a norm of at most `max_norm`, without waiting for the device.

    DINO clips per tensor, not over all parameters together.
    """
    grads: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    if grads:
        norms = torch._foreach_norm(grads)
        torch._foreach_mul_(grads, [(max_norm / (n + 1e-6)).clamp(max=1.0) for n in norms])
