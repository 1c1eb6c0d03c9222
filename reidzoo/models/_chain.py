"""A network as a chain of layers, for what runs only a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in evaluation mode; afterwards every module has its former mode, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def chain(network: Any) -> tuple[list[str], Tensor | None]:
    """Find the layers whose calls, one behind the other, are ``network.forward_features``.

    They are seen at work on a black image: each must take what the one before it gave, and nothing else, and the last
    one give what the network gives. Plain sequences among them are taken apart.

    Args:
        network: A backbone with ``pretrained_cfg`` and ``forward_features``.

    Returns:
        The names of the layers in the network, and the last map; no names if it does more than call them in a row.
    """
    names = {module: name for name, module in network.named_modules() if name}
    calls: list[tuple[str, tuple[Any, ...], Any]] = []
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, taken: tuple[Any, ...], given: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:  # else it is a layer of a layer
            calls.append((names[module], taken, given))

    weight = next(network.parameters())
    x = torch.zeros(1, *network.pretrained_cfg["input_size"], dtype=weight.dtype, device=weight.device)
    with evaluation_mode(network), ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        result = network.forward_features(x)
    given = [x, *(output for _, _, output in calls)]
    linked = all(len(taken) == 1 and taken[0] is before for (_, taken, _), before in zip(calls, given, strict=False))
    if not linked or given[-1] is not result:
        return [], None
    return [layer for name, _, _ in calls for layer in _apart(name, network.get_submodule(name))], result


def _apart(name: str, module: nn.Module) -> list[str]:
    if type(module) is not nn.Sequential:
        return [name]
    return [layer for key, child in module.named_children() for layer in _apart(f"{name}.{key}", child)]
