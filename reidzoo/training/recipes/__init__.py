"""Published settings by name: ``reidzoo.recipes.list()``, ``reidzoo.recipes.get("cion/market1501/resnet50_ibn")``.

Pure data: asking costs no torch.
"""

from reidzoo.training.recipes._recipe import Recipe, Target, apply, get, method_of, target_header
from reidzoo.training.recipes._recipe import list_recipes as list

__all__ = ["Recipe", "Target", "apply", "get", "list", "method_of", "target_header"]
