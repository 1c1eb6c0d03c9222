"""EdgeNeXt as timm has it; its tensors are named like ConvNeXt's in both layouts."""

from __future__ import annotations

from reidzoo.models.convnext import build, from_official, to_official

__all__ = ["build", "from_official", "to_official"]
