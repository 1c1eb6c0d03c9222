"""How an image becomes the tensor that a model expects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from reidzoo.errors import ConfigError
from reidzoo.models import ModelSpec, model_info

if TYPE_CHECKING:
    from reidzoo.data.transforms import EvalTransform, TrainTransform


def create_transform(
    model_or_name: nn.Module | ModelSpec | str,
    training: bool = False,
    img_size: int | tuple[int, int] | None = None,
) -> EvalTransform | TrainTransform:
    """Return the transform from an RGB PIL image to the (3, H, W) float tensor that the model expects.

    Mean, standard deviation and size are those that the model carries (``pretrained_cfg``), so that what a checkpoint
    was trained with is what it is evaluated with.

    Args:
        model_or_name: A model, its `ModelSpec`, or a name of the zoo.
        training: With the random flips, crops and erasing of fine-tuning.
        img_size: (height, width), or one number for both; None: the model's own.

    Raises:
        UnknownModelError: A name that is not in the zoo.
        ConfigError: The module does not say how its images are normalised, or `img_size` is not a size.
    """
    from reidzoo.data.transforms import EvalTransform, TrainTransform

    (_, height, width), mean, std = _input_of(model_or_name)
    if img_size is not None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if min(height, width) < 1:
        raise ConfigError(f"img_size is {(height, width)}; expected (height, width) in pixels, such as (256, 128).")
    if training:
        return TrainTransform((height, width), mean, std)
    return EvalTransform((height, width), mean, std, _interpolation_of(model_or_name))


def _interpolation_of(model_or_name: nn.Module | ModelSpec | str) -> str:
    """Bilinear, but for networks of ours that were trained for the other (MGN): timm's defaults are for its own."""
    cfg = getattr(model_or_name, "pretrained_cfg", {}) if hasattr(model_or_name, "reidzoo_name") else {}
    return str(cfg.get("interpolation", "bilinear"))


def _input_of(model_or_name: nn.Module | ModelSpec | str) -> tuple[tuple[int, int, int], Any, Any]:
    if isinstance(model_or_name, str):
        model_or_name = model_info(model_or_name)
    if isinstance(model_or_name, ModelSpec):
        return model_or_name.input_size, model_or_name.mean, model_or_name.std
    cfg = getattr(model_or_name, "pretrained_cfg", None) or getattr(
        getattr(model_or_name, "backbone", None), "pretrained_cfg", None
    )
    try:
        return cfg["input_size"], cfg["mean"], cfg["std"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise ConfigError(
            f"{type(model_or_name).__name__} has no pretrained_cfg with input_size, mean and std, so its "
            "preprocessing is unknown. Use a model of reidzoo.create_model, or pass transform=... yourself."
        ) from None
