"""Cross-entropy with label smoothing, in the two ways that person re-identification smooths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reidzoo.errors import ConfigError, did_you_mean

CONVENTIONS = ("standard", "fastreid")


def cross_entropy(logits: Tensor, pids: Tensor, smoothing: float = 0.0, convention: str = "standard") -> Tensor:
    """Mean cross-entropy against smoothed labels.

    ``standard`` takes `smoothing` from the right class and gives it to all C classes (Szegedy et al., "Rethinking the
    Inception Architecture", CVPR 2016, section 7): the right one gets ``1 - e + e / C``. ``fastreid`` gives it to the
    other C - 1 classes: the right one gets ``1 - e``.

    Args:
        logits: (B, C); computed in float32 (float64 stays).
        pids: (B,) right classes.
        smoothing: e, 0 to 1.
        convention: ``standard`` or ``fastreid``.

    Returns:
        Scalar.

    Raises:
        ConfigError: another `convention`.
    """
    if convention not in CONVENTIONS:
        raise ConfigError(
            f"convention is {convention!r}, expected one of {', '.join(CONVENTIONS)}."
            f"{did_you_mean(convention, CONVENTIONS)}"
        )
    if convention == "fastreid":
        # e / (C - 1) for each of the others is e' / C with this e', and the right class gets 1 - e' + e' / C = 1 - e.
        classes = logits.shape[1]
        smoothing = smoothing * classes / max(classes - 1, 1)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(exact, pids, label_smoothing=smoothing)
