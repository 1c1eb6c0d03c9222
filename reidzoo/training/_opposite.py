"""Images whose features point the other way: an attack on retrieval, and with it a defence.

Source: Zheng et al., "Query Attack via Opposite-Direction Feature: Towards Robust Image Retrieval", arXiv:1809.02681.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LEVELS = 16
"""How many of the 255 grey levels a pixel may move, and all it takes to turn a feature around."""


def turn_around(
    embed: Callable[[Tensor], Tensor], images: Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Change `images`, invisibly, until their features point away from where they pointed.

    Twenty steps of one grey level against the sign of the gradient of ``||f(x) + f(clean)||^2``. No pixel moves by more
    than `LEVELS` grey levels, or out of the range that pixels have. The features are divided by the length of the clean
    one, not each by its own as in the release: on the sphere the gradient is zero where the steps begin.

    Args:
        embed: from images to features (B, D), differentiable; without batch statistics and dropout.
        images: (B, 3, H, W) normalised.
        mean: of the normalisation, by channel.
        std: of the normalisation, by channel.

    Returns:
        (B, 3, H, W) float32, without gradient.
    """
    shift, scale = (torch.tensor(x, dtype=torch.float32, device=images.device).view(3, 1, 1) for x in (mean, std))
    level, black, white = 1 / (255 * scale), -shift / scale, (1 - shift) / scale
    clean = images.detach().float()
    # Random erasing may have put noise there that no pixel could be.
    low = torch.maximum(clean - LEVELS * level, torch.minimum(black, clean))
    high = torch.minimum(clean + LEVELS * level, torch.maximum(white, clean))
    with torch.autocast(images.device.type, enabled=False), torch.enable_grad():
        first = embed(clean).detach()
        length = first.norm(dim=1, keepdim=True).clamp(min=1e-12)
        moved = clean
        for _ in range(round(min(1.25 * LEVELS, LEVELS + 4))):
            moved = moved.detach().requires_grad_()
            (slope,) = torch.autograd.grad(((embed(moved) + first) / length).square().sum(), moved)
            moved = torch.clamp(moved - level * slope.sign(), low, high)
    return moved.detach()
