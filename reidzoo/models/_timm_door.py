"""The zoo behind timm's own door: ``timm.create_model("reidzoo_resnet50_ibn")``.

`register` runs when timm is imported (`reidzoo._after_import`), so this module stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from timm.models import is_model, register_model
from torch import nn

from reidzoo.models._registry import ModelSpec, list_models, model_info

PREFIX = "reidzoo_"
# What images go through here (`reidzoo.create_transform`), in the words that timm's transforms understand.
RESIZE = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}

# What timm knows of a model before it is built; `register_model` looks for it under this name.
default_cfgs: dict[str, dict[str, Any]] = {}


def register() -> None:
    """Add ``reidzoo_<name>`` for each backbone of the zoo to timm's registry; does nothing the second time."""
    for name in list_models():
        if not is_model(PREFIX + name):
            spec = model_info(name)
            default_cfgs[PREFIX + name] = timm_cfg(spec)
            register_model(_entry_point(spec))


def timm_cfg(spec: ModelSpec) -> dict[str, Any]:
    """The facts of `spec` in the form of timm's ``pretrained_cfg``."""
    return RESIZE | {
        "architecture": PREFIX + spec.name,
        "input_size": spec.input_size,
        "fixed_input_size": False,
        "mean": spec.mean,
        "std": spec.std,
        "num_classes": 0,
        "license": spec.license,
    }


def _entry_point(spec: ModelSpec) -> Callable[..., nn.Module]:
    def entry(
        pretrained: bool = False,
        *,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Mapping[str, Any] | None = None,
        pretrained_model_args: Any = None,
        num_classes: int = 0,
        **kwargs: Any,
    ) -> nn.Module:
        from reidzoo.models._factory import create_model

        given = {**_as_dict(pretrained_cfg), **(pretrained_cfg_overlay or {})}
        if pretrained and (file := _weights_file(given, kwargs.get("cache_dir"))):
            pretrained, kwargs["weights"] = False, file
        in_head = num_classes if kwargs.get("head") else 0
        model: Any = create_model(spec.name, pretrained, num_classes=in_head, **kwargs)
        if "img_size" in kwargs:
            given.pop("input_size", None)
        model.pretrained_cfg.update(given)
        if num_classes and not in_head and not kwargs.get("features_only"):
            model.reset_classifier(num_classes)
        built: nn.Module = model
        return built

    entry.__name__ = entry.__qualname__ = PREFIX + spec.name
    entry.__doc__ = (
        f"{spec.published_name} for person re-identification: `reidzoo.create_model` with timm's arguments.\n\n"
        "Without ``num_classes`` it gives features. ``pretrained=True`` loads what reidzoo's store or hub repository "
        "has, ``weights=`` any file that reidzoo reads."
    )
    return entry


def _as_dict(cfg: Any) -> dict[str, Any]:
    """What timm hands over: nothing, the tag in ``name.tag``, its dataclass, or the dictionary of a ``config.json``."""
    if isinstance(cfg, str):
        raise ValueError(f"The models of reidzoo have no pretrained tags: leave out {cfg!r}.")
    filled = asdict(cfg) if is_dataclass(cfg) and not isinstance(cfg, type) else dict(cfg or {})
    return {key: value for key, value in filled.items() if value is not None}


def _weights_file(cfg: Mapping[str, Any], cache_dir: str | Path | None) -> str | Path | None:
    """The weights that a configuration names, in timm's order: a folder or file, or a hub repository's."""
    file: str | None = cfg.get("file")
    if cfg.get("hf_hub_id") and (not file or cfg.get("source") == "hf-hub"):
        from reidzoo.models._factory import model_file

        return model_file(f"hf-hub:{cfg['hf_hub_id']}", cache_dir)
    return file
