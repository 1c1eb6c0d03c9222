"""What a recipe is, and how to find one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from itertools import chain
from typing import Any

from reidzoo._registry import Registry
from reidzoo.errors import ConfigError, UnknownRecipeError
from reidzoo.training.methods import FINETUNE, PRETRAIN, MethodInfo

PROVENANCE = {
    "readme": "said in the authors' README",
    "code": "the settings of the authors' code",
    "reidzoo": "not published: computed here, see `source`",
}


@dataclass(frozen=True)
class Target:
    """The published result that a recipe aims at, as fractions.

    Attributes:
        mAP: Mean average precision.
        rank1: Rank-1.
        how: What else to know when a number is held against it.
    """

    mAP: float  # noqa: N815 - the field's own name
    rank1: float
    how: str = ""

    def __str__(self) -> str:
        """Both in percent."""
        figures = f"mAP {100 * self.mAP:.1f}, Rank-1 {100 * self.rank1:.1f}"
        return f"{figures} ({self.how})" if self.how else figures


@dataclass(frozen=True)
class Recipe:
    """Settings of a method for a backbone.

    Attributes:
        name: ``method/model`` for pre-training, ``system/data/model`` for fine-tuning.
        method: a method of `reidzoo.pretrain` or of `reidzoo.finetune`.
        model: the backbone it is for; others may use it too.
        settings: the fields of the method's config that it sets; the others keep their defaults.
        gpus: ranks of the run that it describes. Learning rates of pre-training follow ``batch_size`` x ranks by
            themselves.
        provenance: a key of `PROVENANCE`.
        source: where the settings come from, in a sentence.
        data: name of the data set it is for; "" where any will do.
        published: what its authors measured after it, None where they did not.
    """

    name: str
    method: str
    model: str
    settings: Mapping[str, Any]
    gpus: int
    provenance: str
    source: str
    data: str = ""
    published: Target | None = None

    @property
    def stage(self) -> str:
        """``"pretrain"`` or ``"finetune"``: the function that takes it."""
        return "pretrain" if self.method in PRETRAIN else "finetune"

    @property
    def info(self) -> MethodInfo:
        """The method's registry entry."""
        return {"pretrain": PRETRAIN, "finetune": FINETUNE}[self.stage][self.method]


@cache
def _recipes() -> Registry[Recipe]:
    from reidzoo.training.recipes import finetuning, pretraining

    registry: Registry[Recipe] = Registry("recipe", UnknownRecipeError, "Type: reidzoo recipes list")
    for recipe in chain(pretraining.recipes(), finetuning.recipes()):
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


def method_of(name: str, method: str | None, stage: str) -> str:
    """Return the recipe's method.

    Args:
        name: of the recipe.
        method: what the caller asked for, None for whatever the recipe says.
        stage: ``"pretrain"`` or ``"finetune"``, the function that was called.

    Raises:
        UnknownRecipeError: no such recipe.
        ConfigError: the recipe is of another method, or of the other function.
    """
    recipe = get(name)
    if recipe.stage != stage:
        raise ConfigError(
            f"recipe {name!r} is for reidzoo {recipe.stage}, not for reidzoo {stage}. See: "
            f"reidzoo recipes list '*/{recipe.model}'"
        )
    if method not in (None, recipe.method):
        raise ConfigError(
            f"recipe {name!r} is of method {recipe.method!r}, not {method!r}. Leave the method out, or choose another "
            f"recipe: reidzoo recipes list '{method}/*'"
        )
    return recipe.method


def apply(name: str | None, method: str | None, config: Any, stage: str) -> tuple[str | None, Any]:
    """Lay a caller's settings over those of a recipe.

    Args:
        name: of the recipe; None: nothing changes.
        method: as for `method_of`.
        config: None or a mapping of the settings that differ from the recipe's.
        stage: as for `method_of`.

    Returns:
        Method and settings.

    Raises:
        UnknownRecipeError: no such recipe.
        ConfigError: the recipe is of another method, or `config` is a whole config object.
    """
    if name is None:
        return method, config
    method = method_of(name, method, stage)
    if is_dataclass(config):
        raise ConfigError(
            f"recipe={name!r} and a whole {type(config).__name__} both say everything: give config as a dict of the "
            "settings that differ from the recipe's, or as keywords."
        )
    return method, {**get(name).settings, **(config or {})}


def target_header(name: str, data: str) -> dict[str, Any]:
    """What the files of a run say about the published result that its recipe aims at.

    Args:
        name: of the recipe; "" for none.
        data: name of the data set that the run trains on.

    Returns:
        {} without a result for this data set.
    """
    recipe = get(name) if name else None
    if recipe is None or recipe.published is None or recipe.data != data:
        return {}
    target, known = recipe.published, f"recipe {recipe.name}"
    how = f"{known}; {target.how}" if target.how else known
    return {"data": recipe.data, "mAP": target.mAP, "rank1": target.rank1, "how": how}


def list_recipes(pattern: str = "*") -> list[str]:
    """Return the names of all recipes.

    Args:
        pattern: shell pattern, such as ``"cion/market1501/*"``.
    """
    return _recipes().names(pattern)
