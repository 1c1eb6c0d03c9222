"""From the tensor names of the official checkpoints to timm's, and back.

A family says how the official release calls a tensor of ours (`official_key`); both directions follow from that, so
they cannot drift apart. Names that the map does not know are passed on as they are and reported by strict loading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType

from torch import Tensor, nn

from reidzoo.models._registry import model_info

StateDict = Mapping[str, Tensor]
KeyFn = Callable[[str, nn.Module], str]

# Families that share a module with a relative; the others have one of their own name.
_MODULES = {"resnet_ibn": "resnet", "vit_plain": "vit"}


def from_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of an official backbone (no prefix, no head) to the names of `model`. Copies nothing."""
    mapped: dict[str, Tensor] = family_module(model).from_official(state, model)
    return mapped


def to_official(state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """Rename the tensors of `model` (its ``state_dict()``) to the official names. Copies nothing."""
    mapped: dict[str, Tensor] = family_module(model).to_official(state, model)
    return mapped


def family_module(model: nn.Module) -> ModuleType:
    """The module that built `model`, found by its ``reidzoo_name``.

    Raises:
        UnknownModelError: `model` is not of the zoo.
    """
    return builder(model_info(str(getattr(model, "reidzoo_name", type(model).__name__))).family)


def builder(family: str) -> ModuleType:
    """The module with ``build``, ``from_official`` and ``to_official`` of a family."""
    return import_module(f"reidzoo.models.{_MODULES.get(family, family)}")


def rename_from(official_key: KeyFn, state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """`from_official` for a family whose layouts differ in names alone."""
    ours = {official_key(key, model): key for key in model.state_dict()}
    return {ours.get(key, key): tensor for key, tensor in state.items()}


def rename_to(official_key: KeyFn, state: StateDict, model: nn.Module) -> dict[str, Tensor]:
    """`to_official` for a family whose layouts differ in names alone."""
    return {official_key(key, model): tensor for key, tensor in state.items()}


def substitute(key: str, rules: Sequence[tuple[str, str]]) -> str:
    """Apply regular expressions (pattern, replacement) to `key`, one after the other."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key
