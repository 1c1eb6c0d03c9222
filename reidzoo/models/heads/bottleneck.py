"""A narrow layer between feature and classifier, which is the embedding.

Source: Zheng et al., Person_reID_baseline_pytorch, whose networks (with softmax alone, or with metric losses) and PCB
end in this block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import has_last_stride, set_last_stride_1
from reidzoo.models.heads.base import Head, HeadOutput


class ClassBlock(nn.Module):
    """Linear layer, batch norm, dropout, and a classifier: ``(B, D)`` -> logits ``(B, C)``, feature ``(B, width)``.

    There is no ReLU. The feature of training is the one behind the dropout.

    Args:
        in_features: Width D of the input.
        num_classes: Identities of the training set.
        width: Of the feature; 0 leaves the linear layer out.
        dropout: Share of the feature that is dropped.
    """

    def __init__(self, in_features: int, num_classes: int, *, width: int = 512, dropout: float = 0.5) -> None:
        super().__init__()
        self.width = width or in_features
        self.reduce = nn.Linear(in_features, width) if width else nn.Identity()
        self.norm = nn.BatchNorm1d(self.width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.width, num_classes)
        if isinstance(self.reduce, nn.Linear):
            nn.init.kaiming_normal_(self.reduce.weight, a=0, mode="fan_out")
            nn.init.zeros_(self.reduce.bias)
        nn.init.normal_(self.norm.weight, 1.0, 0.02)
        nn.init.normal_(self.classifier.weight, std=1e-4)
        nn.init.zeros_(self.classifier.bias)

    def embed(self, x: Tensor) -> Tensor:
        """``(B, D)`` -> ``(B, width)``."""
        z: Tensor = self.dropout(self.norm(self.reduce(x)))
        return z

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and feature."""
        z = self.embed(x)
        return self.classifier(z), z


class Bottleneck(Head):
    """One `ClassBlock` on the backbone's feature; its narrow feature is the embedding and that of the metric losses.

    Args:
        in_features: Width D of the backbone's feature.
        num_classes: Identities of the training set.
        width: Of the embedding; 0 keeps D.
        dropout: Share of the embedding that is dropped in training.
        last_stride_1: Let the last stage of a ResNet or DenseNet keep its resolution; the zoo's do already.
    """

    name = "bottleneck"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        width: int = 512,
        dropout: float = 0.5,
        last_stride_1: bool = False,
    ) -> None:
        super().__init__()
        self.block = ClassBlock(in_features, num_classes, width=width, dropout=dropout)
        self.num_classes, self.embed_dim = num_classes, self.block.width
        self.options: dict[str, Any] = {"width": width, "dropout": dropout, "last_stride_1": last_stride_1}

    def attach(self, backbone: nn.Module) -> None:
        """Set the last stride.

        Raises:
            ConfigError: The backbone has none to set.
        """
        if not self.options["last_stride_1"]:
            return
        if not has_last_stride(backbone):
            name = getattr(backbone, "reidzoo_name", "") or type(backbone).__name__
            raise ConfigError(f"last_stride_1 is for ResNets and DenseNets of timm, not {name}: leave it out.")
        set_last_stride_1(backbone)

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` in training, ``(B, width)`` in eval mode."""
        return self.classify(x) if self.training else self.block.embed(x)

    def classify(self, x: Tensor) -> HeadOutput:
        """Return logits and feature in either mode."""
        logits, feature = self.block(x)
        return HeadOutput([logits], [feature])
