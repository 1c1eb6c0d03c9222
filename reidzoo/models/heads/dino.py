"""The projection head of self-distillation.

Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", appendix C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DINOHead(nn.Module):
    """Three-layer MLP with GELU, L2 normalisation, and a linear layer whose rows have unit norm.

    The logits are therefore cosines in [-1, 1]. The tensor names are those of the official checkpoints.

    Args:
        in_features: Width D of the backbone's feature.
        out_dim: Number of prototypes O. 65336 is the width of the released CION heads.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width in front of the last layer.
        batchnorm: BatchNorm in front of each GELU. The released heads have none; short runs need it.
    """

    def __init__(
        self,
        in_features: int,
        out_dim: int = 65336,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batchnorm: bool = False,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        for width in (in_features, hidden_dim):
            self.mlp.append(nn.Linear(width, hidden_dim))
            if batchnorm:
                self.mlp.append(nn.BatchNorm1d(hidden_dim))
            self.mlp.append(nn.GELU())
        self.mlp.append(nn.Linear(hidden_dim, bottleneck_dim))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = UnitNormLinear(bottleneck_dim, out_dim)

    def bottleneck(self, x: Tensor) -> Tensor:
        """``(B, D)`` features -> ``(B, bottleneck_dim)`` of length 1, the input of the last layer."""
        return F.normalize(self.mlp(x), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D)`` features -> ``(B, O)`` logits."""
        logits: Tensor = self.last_layer(self.bottleneck(x))
        return logits


class UnitNormLinear(nn.Module):
    """Linear layer without bias whose rows are ``weight_g * weight_v / ||weight_v||``, the gain frozen at one.

    torch's weight normalisation is not used: the old one cannot be deep-copied, the new one renames the tensors.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=False)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))  # torch's default for a linear layer

    @property
    def weight(self) -> Tensor:
        """``(out_features, in_features)``, differentiable: what `forward` multiplies with."""
        norms: Tensor = self.weight_v.norm(dim=1, keepdim=True)
        return self.weight_v * (self.weight_g / norms)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_features)`` -> ``(B, out_features)``."""
        return F.linear(x, self.weight)
