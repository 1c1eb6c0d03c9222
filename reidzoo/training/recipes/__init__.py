"""Published settings by name: ``reidzoo.recipes.list()``, ``reidzoo.recipes.get("cion/resnet50_ibn")``.

Pure data: asking costs no torch.
"""

from reidzoo.training.recipes._recipe import Recipe, get, method_of
from reidzoo.training.recipes._recipe import list_recipes as list

__all__ = ["Recipe", "get", "list", "method_of"]
