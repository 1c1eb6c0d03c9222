"""What a recipe is, and how to find one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from reidzoo._registry import Registry
from reidzoo.errors import ConfigError, UnknownRecipeError

PROVENANCE = {
    "readme": "said in the authors' README",
    "code": "the defaults of the authors' code",
    "reidzoo": "not published: computed here, see `source`",
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a method for a backbone.

    Attributes:
        name: ``method/model``, or ``method/`` and what it is about.
        method: a method of `reidzoo.pretrain`.
        model: the backbone it is for; others may use it too.
        settings: the fields of the method's config that differ from its defaults.
        gpus: ranks of the run that it describes. Learning rates follow ``batch_size`` x ranks by themselves.
        provenance: a key of `PROVENANCE`.
        source: where the settings come from, in a sentence.
    """

    name: str
    method: str
    model: str
    settings: Mapping[str, Any]
    gpus: int
    provenance: str
    source: str


@cache
def _recipes() -> Registry[Recipe]:
    from reidzoo.training.recipes import pretraining

    registry: Registry[Recipe] = Registry("recipe", UnknownRecipeError, "Type: reidzoo recipes list")
    for recipe in pretraining.recipes():
        registry.add(recipe.name, recipe)
    return registry


def get(name: str) -> Recipe:
    """Return a recipe.

    Args:
        name: as in `list_recipes`.

    Raises:
        UnknownRecipeError: no such recipe; names the closest.
    """
    return _recipes()[name]


def method_of(name: str, method: str | None) -> str:
    """Return the recipe's method.

    Args:
        name: of the recipe.
        method: what the caller asked for, None for whatever the recipe says.

    Raises:
        UnknownRecipeError: no such recipe.
        ConfigError: the recipe is of another method.
    """
    recipe = get(name)
    if method not in (None, recipe.method):
        raise ConfigError(
            f"recipe {name!r} is of method {recipe.method!r}, not {method!r}. Leave the method out, or choose another "
            f"recipe: reidzoo recipes list '{method}/*'"
        )
    return recipe.method


def list_recipes(pattern: str = "*") -> list[str]:
    """Return the names of all recipes.

    Args:
        pattern: shell pattern, such as ``"cion/resnet*"``.
    """
    return _recipes().names(pattern)
