"""The colour operations of `MultiCrop` on whole batches, on any device: the same results as one image at a time.

What is done to an image was drawn where it was decoded and arrives as a row of numbers, so nothing here depends on
random states, and nothing waits for the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
TAPS = 7  # of a symmetric kernel, from its centre outwards: as many as a blur of sigma 2 needs


def color_jitter(x: Tensor, factors: Tensor, shift: Tensor, order: Tensor) -> Tensor:
    """`_pixel_ops.color_jitter` with the strengths and the order of each image.

    Args:
        x: (B, 3, H, W) float in [0, 255].
        factors: (B, 3) of brightness, contrast, saturation.
        shift: (B,) of the hue, in turns, at most 1/6 in size.
        order: (B, 4) the steps 0 to 3 (brightness, contrast, saturation, hue), each once.
    """
    for position in range(4):
        step = order[:, position].view(-1, 1, 1, 1)
        grey = luma(x)
        # The first three blend with black, with the mean grey, or with each pixel's grey.
        towards = torch.where(step == CONTRAST, grey.mean((2, 3), keepdim=True), (step == SATURATION) * grey)
        index = order[:, position].clamp(max=SATURATION).long()[:, None]
        factor = factors.gather(1, index).view(-1, 1, 1, 1)
        blended = torch.lerp(towards, x, factor).clamp_(0, 255)
        x = torch.where(step == HUE, adjust_hue(x, shift), blended)
    return x


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """`_pixel_ops.adjust_hue` with a turn for each image: (B, 3, H, W) and (B,) -> (B, 3, H, W)."""
    turn = shift.view(-1, 1, 1, 1)
    d = turn.abs() * 6
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    following, preceding = x.roll(-1, 1), x.roll(-2, 1)
    after = torch.where(turn >= 0, following, preceding)
    before = torch.where(turn >= 0, preceding, following)
    out = x - after + (1 - 2 * d) * (high - before) + d * chroma
    return torch.minimum(out.clamp_(min=0), chroma) + low


def gaussian_blur(x: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image with its own kernel; edges are continued outwards.

    Args:
        x: (B, C, H, W) float.
        kernels: (B, TAPS) halves of symmetric kernels, from the centre; (1, 0, ...) leaves an image as it is.
    """
    height, width = x.shape[-2:]
    reach = TAPS - 1
    weights = torch.cat([kernels.flip(1), kernels[:, 1:]], 1).view(len(x), -1, 1, 1, 1)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    rows = padded[:, :, :height] * weights[:, 0]
    for i in range(1, 2 * reach + 1):
        rows.addcmul_(padded[:, :, i : i + height], weights[:, i])
    out = rows[..., :width] * weights[:, 0]
    for i in range(1, 2 * reach + 1):
        out.addcmul_(rows[..., i : i + width], weights[:, i])
    return out


def luma(x: Tensor) -> Tensor:
    """Grey of (B, 3, H, W), as (B, 1, H, W); ITU-R 601-2 luma, as Pillow's."""
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)
