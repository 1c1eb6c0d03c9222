"""Where a network looks: Grad-CAM for networks with a last feature map, attention roll-out for plain ViTs.

Sources: Selvaraju et al., "Grad-CAM", ICCV 2017; Abnar and Zuidema, "Quantifying Attention Flow in Transformers",
ACL 2020.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo.data.loaders import read_image
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._images import ImageTransform
from reidzoo.eval.preprocess import create_transform
from reidzoo.models._chain import evaluation_mode

# From cold to hot, even steps of lightness: dark violet, magenta, orange, pale yellow.
_RAMP = np.array([[20, 11, 52], [90, 20, 110], [165, 45, 96], [225, 92, 48], [251, 165, 20], [252, 255, 164]])
_GAP = 8


def heat_maps(
    model: nn.Module,
    images: Sequence[str | os.PathLike[str]] | Sequence[Image.Image] | Tensor,
    *,
    reference: ArrayLike | Tensor | None = None,
    layer: str | None = None,
    batch_size: int = 16,
    img_size: int | tuple[int, int] | None = None,
    transform: ImageTransform | None = None,
) -> list[NDArray[np.float32]]:
    """Return for each image how much its parts weigh in the feature.

    Grad-CAM shows what speaks for the similarity (the inner product) with a `reference`: give it the feature of another
    image to see what makes the two alike. It is read off the network's last stage, as timm names it. Attention
    roll-out, for ViTs whose blocks attend to all tokens, follows the attention from the pooled tokens back to the
    patches through all blocks; it knows no reference.

    The model is back in its former mode afterwards, without gradients and hooks.

    Args:
        model: Maps (B, 3, H, W) float images to (B, D); where it is, there it is run.
        images: Image files, PIL images, or a (N, 3, H, W) tensor that is resized and normalised already.
        reference: (N, D) features, or (D,) for all; None: the image's own feature.
        layer: Module whose output Grad-CAM reads, (B, C, h, w), by its name in `model`; None: see above.
        batch_size: Images at a time.
        img_size: (height, width) to resize to; None: the model's own.
        transform: From an RGB PIL image to a (3, H, W) tensor; None: `create_transform` of the model.

    Returns:
        N arrays (h, w) float32 in [0, 1], as coarse as the feature map; the largest value is 1, or all are 0.

    Raises:
        ConfigError: The model has no such `layer`, or no feature map that could be read.
        DataError: `reference` does not fit.
        CorruptImageError: A file cannot be decoded.
    """
    if not isinstance(images, Tensor):
        apply = transform if transform is not None else create_transform(model, img_size=img_size)
        opened = [i.convert("RGB") if isinstance(i, Image.Image) else read_image(os.fspath(i)) for i in images]
        images = torch.stack([apply(image) for image in opened]) if opened else torch.empty(0, 3, 1, 1)
    parameter = next(model.parameters(), torch.empty(0))
    given = None if reference is None else torch.as_tensor(reference, dtype=torch.float32, device=parameter.device)
    if given is not None and given.ndim == 1:
        given = given.expand(len(images), -1)
    if given is not None and (given.ndim != 2 or len(given) != len(images)):
        raise DataError(f"reference has shape {tuple(given.shape)} for {len(images)} images; expected (images, D).")
    attention = _global_attention(model) if layer is None else []
    maps: list[NDArray[np.float32]] = []
    with evaluation_mode(model):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size].to(parameter.device, parameter.dtype)
            if attention:
                heat = _roll_out(model, attention, batch)
            else:
                heat = _grad_cam(model, layer, batch, None if given is None else given[start : start + batch_size])
            peak = heat.amax(dim=(1, 2), keepdim=True)
            maps += list((heat / torch.where(peak > 0, peak, 1)).float().cpu().numpy())
    return maps


def _grad_cam(model: nn.Module, layer: str | None, batch: Tensor, reference: Tensor | None) -> Tensor:
    """Return (B, h, w) >= 0: channels of the map, weighted by their mean slope, added up, and the positive part."""
    with torch.enable_grad(), _last_map(model, layer) as seen:
        feature: Tensor = model(batch.clone().requires_grad_())
        if not seen:
            raise ConfigError(
                f"{type(model).__name__} ran through no feature map (B, C, h, w) that Grad-CAM could read. Name a "
                "module that returns one: layer='...', from model.named_modules()."
            )
        goal = feature.detach().float() if reference is None else reference
        if goal.shape != feature.shape:
            raise DataError(f"reference has {goal.shape[1]} dimensions, the model's features {feature.shape[1]}.")
        (slope,) = torch.autograd.grad((feature.float() * goal).sum(), seen[-1])
    activation, slope = _channels_first(model, seen[-1].detach()), _channels_first(model, slope)
    return (activation.float() * slope.float().mean(dim=(2, 3), keepdim=True)).sum(1).relu()


@contextmanager
def _last_map(model: nn.Module, layer: str | None) -> Iterator[list[Tensor]]:
    """Collect the outputs (B, ., ., .) of a module: `layer`, timm's last stage, or else all, the last being last."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1:].numel() > output.shape[1]:
            seen.append(output)
            return output.clone()  # what follows may write into it
        return output

    backbone = _backbone(model)
    stage = _stage(backbone)
    try:
        if layer is not None:
            modules = [model.get_submodule(layer)]
        else:
            modules = list(model.modules())[1:] if stage is None else [backbone.get_submodule(stage["module"])]
    except AttributeError as e:
        raise ConfigError(f"{type(model).__name__} has no module {layer!r}; see model.named_modules().") from e
    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _backbone(model: nn.Module) -> nn.Module:
    backbone = getattr(model, "backbone", model)
    return backbone if isinstance(backbone, nn.Module) else model


def _stage(backbone: nn.Module) -> dict[str, Any] | None:
    """Return timm's record of the last stage: the name of its module, and its channels."""
    info = getattr(backbone, "feature_info", None)
    return info[-1] if isinstance(info, list) and info and "module" in info[-1] else None


def _channels_first(model: nn.Module, x: Tensor) -> Tensor:
    """(B, h, w, C), as of Swin and VOLO, to (B, C, h, w)."""
    stage = _stage(_backbone(model))
    channels = stage["num_chs"] if stage else x.shape[1]
    return x.permute(0, 3, 1, 2) if x.shape[3] == channels != x.shape[1] else x


def _global_attention(model: nn.Module) -> list[Any]:
    """Return the attention of each block, if the network is a ViT whose blocks attend to all tokens; else nothing."""
    blocks = getattr(_backbone(model), "blocks", ())
    found = [getattr(block, "attn", None) for block in blocks]
    usable = all(hasattr(a, "fused_attn") and isinstance(getattr(a, "attn_drop", None), nn.Module) for a in found)
    return found if usable else []


@torch.no_grad()
def _roll_out(model: nn.Module, attention: list[Any], batch: Tensor) -> Tensor:
    """Return (B, h, w) >= 0: the mean attention of the heads and the residual connection, multiplied up the blocks."""
    backbone: Any = _backbone(model)
    flow: list[Tensor] = []

    def multiply(module: nn.Module, args: Any, shares: Tensor) -> None:
        step = (shares.float().mean(1) + torch.eye(shares.shape[-1], device=shares.device)) / 2
        flow[:] = [step @ flow[0] if flow else step]

    fused = [a.fused_attn for a in attention]
    hooks = [a.attn_drop.register_forward_hook(multiply) for a in attention]
    try:
        for a in attention:
            a.fused_attn = False  # so that the shares exist
        model(batch)
    finally:
        for a, was in zip(attention, fused, strict=True):
            a.fused_attn = was
        for hook in hooks:
            hook.remove()
    special = getattr(backbone, "num_prefix_tokens", 1)
    pooled = slice(special, None)
    if getattr(backbone, "global_pool", "token") == "token":
        pooled = slice(special - getattr(backbone, "num_reg_tokens", 0))
    heat = flow[0][:, pooled].mean(1)[:, special:]
    heat = heat - heat.amin(1, keepdim=True)
    return heat.reshape(len(batch), *_grid(heat.shape[1], batch.shape[2] / batch.shape[3]))


def _grid(patches: int, aspect: float) -> tuple[int, int]:
    """Return the (h, w) with h * w = `patches` whose h / w is nearest to `aspect`."""
    sizes = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
    return min(sizes, key=lambda size: abs(np.log(size[0] / size[1] / aspect)))


def overlay(image: Image.Image, heat: NDArray[np.floating], *, strength: float = 0.55) -> Image.Image:
    """Lay a heat map over an image: pale yellow is hot, dark violet is cold.

    Args:
        image: RGB.
        heat: (h, w) in [0, 1], of any size.
        strength: Of the heat, from 0 (the image alone) to 1.
    """
    fine = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    at = np.clip(np.asarray(fine), 0, 1) * (len(_RAMP) - 1)
    colours = np.stack([np.interp(at, np.arange(len(_RAMP)), channel) for channel in _RAMP.T], axis=-1)
    return Image.blend(image.convert("RGB"), Image.fromarray(colours.round().astype(np.uint8)), strength)


def draw_heat_maps(
    images: Sequence[Image.Image], heat: Sequence[NDArray[np.floating]], path: str | Path, *, columns: int = 4
) -> Path:
    """Draw each image beside its overlay, `columns` such pairs in a row, and write a PNG, whole or not at all.

    Args:
        images: RGB images of one size.
        heat: A map (h, w) for each.
        path: The file to write.
        columns: Pairs in a row.

    Returns:
        `path`.
    """
    width, height = images[0].size
    rows = -(-len(images) // columns)
    across = min(columns, len(images)) * (2 * width + 2 * _GAP) + _GAP
    picture = Image.new("RGB", (across, rows * (height + _GAP) + _GAP), "white")
    for i, (image, values) in enumerate(zip(images, heat, strict=True)):
        x, y = _GAP + i % columns * (2 * width + 2 * _GAP), _GAP + i // columns * (height + _GAP)
        picture.paste(image, (x, y))
        picture.paste(overlay(image, values), (x + width, y))
    path = Path(path)
    with atomic(path) as temporary:
        picture.save(temporary, "PNG", compress_level=3)  # photographs: more effort gains little
    return path
