"""Margin softmaxes: cosines of a `CosineClassifier` -> logits in which the right class has a harder time.

What they return goes to the cross-entropy. They compute in float32 (float64 stays), since a margin is lost in half
precision.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.errors import ConfigError


def arcface(cosines: Tensor, pids: Tensor, *, scale: float = 64, margin: float = 0.5) -> Tensor:
    """``cos(theta + m)`` for the right class (Deng et al., "ArcFace", CVPR 2019, equation 3).

    Beyond ``theta = pi - m``, where that would grow again, it goes on as ``cos(theta) - m sin(m)``.

    Args:
        cosines: (B, C) in [-1, 1].
        pids: (B,) right classes.
        scale: s.
        margin: m in radians.

    Returns:
        (B, C) logits.
    """
    cosines = _exact(cosines)
    right = _right(cosines, pids)
    # The root has no slope at 0, and rounding may put a cosine above 1.
    sines = (1 - right.square()).clamp(min=1e-7).sqrt()
    rotated = right * math.cos(margin) - sines * math.sin(margin)
    shifted = right - margin * math.sin(margin)
    return scale * _replaced(cosines, pids, torch.where(right > -math.cos(margin), rotated, shifted))


def cosface(cosines: Tensor, pids: Tensor, *, scale: float = 64, margin: float = 0.35) -> Tensor:
    """``cos(theta) - m`` for the right class (Wang et al., "CosFace", CVPR 2018, equation 4).

    Args:
        cosines: (B, C) in [-1, 1].
        pids: (B,) right classes.
        scale: s.
        margin: m.

    Returns:
        (B, C) logits.
    """
    cosines = _exact(cosines)
    return scale * _replaced(cosines, pids, _right(cosines, pids) - margin)


def amsoftmax(cosines: Tensor, pids: Tensor, *, scale: float = 30, margin: float = 0.35) -> Tensor:
    """`cosface` at a lower scale (Wang et al., "Additive Margin Softmax for Face Verification", 2018, equation 6).

    Args:
        cosines: (B, C) in [-1, 1].
        pids: (B,) right classes.
        scale: s.
        margin: m.

    Returns:
        (B, C) logits.
    """
    return cosface(cosines, pids, scale=scale, margin=margin)


def circle_softmax(cosines: Tensor, pids: Tensor, *, scale: float = 64, margin: float = 0.35) -> Tensor:
    """Circle loss on class labels (Sun et al., "Circle Loss", CVPR 2020, section 3.2).

    Each cosine has its own weight, which grows with the distance from its optimum; no gradient flows through it.

    Args:
        cosines: (B, C) in [-1, 1].
        pids: (B,) right classes.
        scale: gamma.
        margin: m; the right cosine is to be above 1 - m, the others below m.

    Returns:
        (B, C) logits.
    """
    cosines = _exact(cosines)
    right = _right(cosines, pids)
    wanted = F.relu(1 + margin - right.detach()) * (right - (1 - margin))
    unwanted = F.relu(cosines.detach() + margin) * (cosines - margin)
    return scale * _replaced(unwanted, pids, wanted)


def sphereface(cosines: Tensor, pids: Tensor, *, scale: float | Tensor = 1, margin: float = 4) -> Tensor:
    """``(-1)^k cos(m theta) - 2 k``, k = floor(m theta / pi), for the right class.

    Source: Liu et al., "SphereFace", CVPR 2017, equation 7 (without the annealing of its training).

    Args:
        cosines: (B, C) in [-1, 1].
        pids: (B,) right classes.
        scale: 1 for normalised features; the paper's are not: (B, 1) lengths of the features.
        margin: m, a whole number from 1.

    Returns:
        (B, C) logits.

    Raises:
        ConfigError: another `margin`.
    """
    if margin < 1 or margin != int(margin):
        raise ConfigError(f"sphereface multiplies the angle by its margin, a whole number from 1, not {margin:g}")
    cosines = _exact(cosines)
    right = _right(cosines, pids).clamp(-1, 1)
    k = (margin * right.detach().acos() / math.pi).floor()
    # cos(m theta) as a polynomial in cos(theta) (Chebyshev's): acos has no finite slope at 1.
    before, multiple = torch.ones_like(right), right
    for _ in range(int(margin) - 1):
        before, multiple = multiple, 2 * right * multiple - before
    return scale * _replaced(cosines, pids, (1 - 2 * (k % 2)) * multiple - 2 * k)


def _exact(cosines: Tensor) -> Tensor:
    return cosines.to(torch.promote_types(cosines.dtype, torch.float32))


def _right(cosines: Tensor, pids: Tensor) -> Tensor:
    """Return the (B, 1) cosines of the right classes."""
    return cosines.gather(1, pids[:, None])


def _replaced(cosines: Tensor, pids: Tensor, right: Tensor) -> Tensor:
    """Return `cosines` (B, C) with `right` (B, 1) in the place of the right classes'."""
    return cosines.scatter(1, pids[:, None], right)
