"""MGN: a shared trunk, three copies of the last stages, and eight small heads on the whole map and on its stripes.

Source: Wang et al., "Learning Discriminative Features with Multiple Granularities for Person Re-Identification", ACM
MM 2018, as fast-reid builds it for CION's published numbers: the global branch keeps the resolution too, a batch norm
follows each branch, pooling is GeM, and the classifiers give cosines.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reidzoo.errors import ConfigError
from reidzoo.models._chain import chain
from reidzoo.models._surgery import set_last_stride
from reidzoo.models.heads.base import Head, HeadOutput
from reidzoo.models.heads.cosine import CosineClassifier
from reidzoo.models.layers import GeM

STRIPES = (1, 2, 3)
"""How many stripes, beside the whole map, each branch looks at; the first branch has the whole map alone."""
PARTS = ("b1", "b2", "b3", "b21", "b22", "b31", "b32", "b33")
"""The heads, in the order of the embedding: whole maps, then stripes from top to bottom."""
WIDTH = 256
"""Of a part's feature."""


class MGN(Head):
    """Three branches behind a shared trunk, with 1, 2 and 3 horizontal stripes; a reduced feature of each part.

    The backbone itself is the trunk and the first branch; the others start as copies of its end (`split`).

    Args:
        in_features: Width of the backbone's feature; that of its last map, D, takes its place where it is another.
        num_classes: Identities of the training set.
    """

    name = "mgn"

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.embed_dim = num_classes, len(PARTS) * WIDTH
        self.options = {}
        self.shared: list[str] = []  # names of layers of the backbone, from `attach` on
        self.end: list[str] = []
        self.branches = nn.ModuleList()  # the second and the third, from `attach` on
        self._build(in_features)

    def _build(self, in_features: int) -> None:
        self.in_features = in_features
        self.norms = nn.ModuleList(nn.BatchNorm2d(in_features) for _ in STRIPES)
        self.parts = nn.ModuleDict({name: Part(in_features, self.num_classes) for name in PARTS})

    def attach(self, backbone: nn.Module) -> None:
        """Give a ResNet last stride 1, and start the other two branches as copies of the backbone's end.

        Raises:
            ConfigError: The backbone is no chain of stages.
        """
        if not self.shared:
            self.shared, self.end, width = split(backbone)
            if width != self.in_features:  # GhostNet's feature has a layer behind the pooling
                self._build(width)
        set_last_stride(backbone, 1)
        end = _layers(backbone, self.end)
        self.branches = nn.ModuleList(nn.Sequential(*copy.deepcopy(end)) for _ in STRIPES[1:])

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> list[Tensor]:
        """Return the maps (B, D, h, w) of the three branches."""
        recompute = self.training and bool(getattr(backbone, "grad_checkpointing", False))
        y = _run(_layers(backbone, self.shared), x, recompute)
        maps = [_run(branch, y, recompute) for branch in (_layers(backbone, self.end), *self.branches)]
        return [m.permute(0, 3, 1, 2) for m in maps] if _channels_last(backbone) else maps

    def forward(self, x: list[Tensor]) -> HeadOutput | Tensor:
        """Map the three branches' maps to cosines and features in training, to ``(B, 2048)`` in eval mode.

        The logits are the cosines of the eight parts, in the order of `PARTS`. The features are those of the three
        whole maps, then the stripes of a branch side by side, for five metric losses.
        """
        z: dict[str, Tensor] = {}
        for number, (norm, y) in enumerate(zip(self.norms, x, strict=True), 1):
            y = norm(y)
            z[f"b{number}"] = self.parts[f"b{number}"](y)
            if number > 1:
                for i, stripe in enumerate(stripes(y, number), 1):
                    z[f"b{number}{i}"] = self.parts[f"b{number}{i}"](stripe)
        if not self.training:
            return torch.cat([z[name] for name in PARTS], 1)
        cosines = [self.parts[name].classifier(z[name]) for name in PARTS]  # type: ignore[operator]
        joined = [torch.cat([z[f"b{n}{i}"] for i in range(1, n + 1)], 1) for n in STRIPES[1:]]
        return HeadOutput(cosines, [z["b1"], z["b2"], z["b3"], *joined])


class Part(nn.Module):
    """GeM, reduction without bias, batch norm with a frozen shift: ``(B, D, h, w)`` -> ``(B, 256)``.

    ``classifier`` turns that into cosines with the identities.

    Args:
        in_features: Channels D of the map.
        num_classes: Identities of the training set.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.pool = GeM()
        self.reduce = nn.Linear(in_features, WIDTH, bias=False)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.classifier = CosineClassifier(WIDTH, num_classes)
        nn.init.kaiming_normal_(self.reduce.weight, mode="fan_out")
        nn.init.normal_(self.norm.weight, 1.0, 0.02)
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Describe a part of the map."""
        z: Tensor = self.norm(self.reduce(self.pool(x)))
        return z


def stripes(x: Tensor, count: int) -> Sequence[Tensor]:
    """Cut a map (B, D, h, w) into `count` stripes, top to bottom; the upper ones take the rows that are over.

    Raises:
        ConfigError: It has fewer rows than that.
    """
    if x.shape[2] < count:
        raise ConfigError(
            f"MGN cuts the last map into {count} stripes, but this one has {x.shape[2]} rows: use taller images "
            "(img_size=(384, 128) is the published size)."
        )
    return torch.tensor_split(x, count, dim=2)


def split(backbone: Any) -> tuple[list[str], list[str], int]:
    """Return the layers that MGN's branches share and those that each has for itself, and the last map's width.

    A ResNet is cut behind the first block of its third stage, any other network in front of its last stage.

    Raises:
        ConfigError: The backbone is no chain of layers that ends in a map, or has no stages.
    """
    layers, last = chain(backbone)
    if last is not None and last.ndim == 4:
        ends = ["layer3.0", *(stage["module"] for stage in reversed(getattr(backbone, "feature_info", [])[:-1]))]
        for stage in ends:
            cut = 1 + max((i for i, name in enumerate(layers) if f"{name}.".startswith(f"{stage}.")), default=-1)
            # VGG's last stage is a pooling alone, of which copies would be no branches.
            if cut and any(True for name in layers[cut:] for _ in backbone.get_submodule(name).parameters()):
                return layers[:cut], layers[cut:], last.shape[3 if _channels_last(backbone) else 1]
    name = getattr(backbone, "reidzoo_name", "") or type(backbone).__name__
    raise ConfigError(
        f"MGN needs a network of stages that can be copied, such as 'resnet50_ibn' or 'convnext_tiny'; {name!r} is "
        "none. For other networks there is method='transreid' (command line: --method transreid)."
    )


def _channels_last(backbone: nn.Module) -> bool:
    return str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC"  # as timm says it


def _layers(backbone: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [backbone.get_submodule(name) for name in names]


def _run(layers: Sequence[nn.Module], x: Tensor, recompute: bool) -> Tensor:
    for layer in layers:
        # Blocks only: the single layers of a stem work in place, on what would have to be kept.
        block = len(layer._modules) > 0
        x = checkpoint(layer, x, use_reentrant=False) if recompute and block else layer(x)
    return x
