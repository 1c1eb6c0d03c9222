"""Attention between the layers of a ResNet: non-local blocks (AGW) and unit subtraction (layumi's baseline).

Source: Wang et al., "Non-local Neural Networks", CVPR 2018; Ye et al., "Deep Learning for Person Re-identification: A
Survey and Outlook" (AGW), TPAMI 2021, section 4; Lin et al., "Joint Representation Learning and Keypoint Detection for
Cross-View Geo-Localization" (USAM), TIP 2022, section III.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models.resnet import ResNet
from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import insert_after

# Stage of a ResNet: how many of its last blocks AGW puts a non-local block behind. AGW has ResNet-50 alone; other
# depths get as many, as far as they have blocks.
_NON_LOCAL = {"layer2": 2, "layer3": 3}


class NonLocal(nn.Module):
    """Each position of a map, plus what all positions say, weighed by how similar these are to it.

    ``z_i = x_i + BN(W sum_j (theta(x_i) . phi(x_j) / N) g(x_j))`` over the N positions j (equations 1, 4 and 6), with
    1x1 convolutions theta, phi and g to half the channels. Scale and shift of the batch norm start at zero, so that
    the block starts as the identity (section 4.1).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        theta, phi, g = (conv(x).flatten(2) for conv in (self.theta, self.phi, self.g))
        # Divided before the product, which fp16 might not hold.
        similarity = theta.transpose(1, 2) @ (phi / phi.shape[2])
        y = (g @ similarity.transpose(1, 2)).unflatten(2, x.shape[2:])
        z: Tensor = x + self.norm(self.out(y))
        return z


class USAM(nn.Module):
    """Unit subtraction: a position of a map counts more, the more its sum of channels stands out from its neighbours'.

    The attention a of a position is 9 times the sum of its channels, less the sums of the 3x3 positions around it, in
    a batch norm of one channel and a leaky ReLU (0.1); at the border it is 0. The output is ``x + a x``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> the same shape."""
        total = x.float().sum(1, keepdim=True)  # differences of large sums: not in fp16
        attention = F.leaky_relu(self.norm(9 * (total - F.avg_pool2d(total, 3, 1, 1))), 0.1)
        inside = F.pad(F.pad(attention, [-1] * 4), [1] * 4)
        return x + inside.to(x.dtype) * x


def add_non_local(network: Any) -> None:
    """Put AGW's `NonLocal` blocks into a ResNet: behind the last two of ``layer2`` and the last three of ``layer3``.

    All other tensors keep their names. The network notes it (as `create_model`'s ``non_local=True``), so that files of
    it say how to build it again; one that has the blocks stays as it is.

    Args:
        network: A ResNet of timm or of the zoo.

    Raises:
        ConfigError: Another network.
    """
    if _is_new(network, "non_local"):
        widths = {info["module"]: info["num_chs"] for info in network.feature_info}
        for name, count in _NON_LOCAL.items():
            stage: nn.Sequential = getattr(network, name)
            for i in reversed(range(max(len(stage) - count, 0), len(stage))):
                insert_after(stage, i, NonLocal(widths[name]))


def add_usam(network: Any) -> None:
    """Put two of `USAM` into a ResNet, behind the first ReLU and behind ``layer1``; the rest is as of `add_non_local`.

    Args:
        network: A ResNet of timm or of the zoo.

    Raises:
        ConfigError: Another network.
    """
    if _is_new(network, "usam"):
        # In front of the pooling is behind the ReLU, and there timm's table of layers counts it to the stem.
        network.maxpool = nn.Sequential(USAM(), network.maxpool)
        insert_after(network.layer1, len(network.layer1) - 1, USAM())


ATTENTION = {"non_local": add_non_local, "usam": add_usam}
"""What adds it, by the option of `create_model`."""


def _is_new(network: Any, option: str) -> bool:
    """Whether `network` has no such attention yet; from now on it says that it has."""
    if not isinstance(network, ResNet):
        name = getattr(network, "reidzoo_name", "") or type(network).__name__
        raise ConfigError(
            f"{option} goes between the stages of a ResNet, and {name} is none. Leave {option} out, or take resnet50, "
            "resnet50_ibn or timm/resnet50."
        )
    known = getattr(network, "reidzoo_kwargs", {})
    network.reidzoo_kwargs = {**known, option: True}
    return option not in known
