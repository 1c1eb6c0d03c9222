"""Optimisers, their parameter groups, and gradient clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reidzoo.errors import ConfigError


def decay_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return DINO's two groups: matrices with weight decay; vectors and biases without (Caron et al., 2021)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, p in network.named_parameters():
        if p.requires_grad:
            (plain if p.ndim <= 1 or name.endswith(".bias") else decayed).append(p)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def rate_groups(network: nn.Module, lr: float, factor: Callable[[str], float]) -> list[dict[str, Any]]:
    """Return one group for all parameters that learn equally fast, those of rate `lr` first.

    Args:
        network: whose parameters; frozen ones (without requires_grad) are left out.
        lr: peak learning rate.
        factor: from a parameter's name to its share of `lr`.

    Returns:
        Groups with ``lr`` and ``base_lr``, which keeps the group's peak rate for the schedule.
    """
    found: dict[float, list[nn.Parameter]] = {}
    for name, p in network.named_parameters():
        if p.requires_grad:
            found.setdefault(factor(name), []).append(p)
    order = sorted(found, key=lambda f: (f != 1, f))
    return [{"params": found[f], "lr": lr * f, "base_lr": lr * f} for f in order]


def layer_factors(network: nn.Module, decay: float) -> dict[str, float]:
    """Return by name how fast the backbone's parameters learn under layer-wise decay, {} without (`decay` 1).

    The last layer learns with factor 1, each one before it with `decay` times its successor's (Clark et al.,
    "ELECTRA", 2020, appendix A; Bao et al., "BEiT", 2022, appendix). What a layer is, timm knows of each network.

    Raises:
        ConfigError: nobody knows the network's layers.
    """
    if decay == 1:
        return {}
    from timm.models import group_parameters

    backbone: Any = getattr(network, "backbone", None)
    if not hasattr(backbone, "group_matcher"):
        raise ConfigError(
            f"layer_decay is {decay}, but this backbone has no group_matcher, timm's list of a network's layers. Leave "
            "layer_decay out, or take a backbone of reidzoo.create_model."
        )
    layers = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {f"backbone.{name}": decay ** (last - layer) for name, layer in layers.items()}


def build_optimizer(
    name: str, groups: list[dict[str, Any]], *, lr: float, weight_decay: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """Return an optimiser over `groups`.

    Args:
        name: ``adamw`` (decoupled weight decay) or ``adam`` (weight decay in the gradient), both with betas 0.9 and
            0.999, fused on a GPU; ``sgd``, ``nesterov`` (SGD that looks ahead) or ``lars``.
        groups: parameter groups.
        lr: learning rate of groups that have none of their own.
        weight_decay: of groups that have none of their own.
        momentum: of ``sgd``, ``nesterov`` and ``lars``.
    """
    if name in ("adam", "adamw"):
        fused = all(p.is_cuda for g in groups for p in g["params"])
        adam = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
        return adam(groups, lr=lr, weight_decay=weight_decay, fused=fused or None)
    if name == "lars":
        return LARS(groups, lr=lr, weight_decay=weight_decay, momentum=momentum)
    return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=name == "nesterov")


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
