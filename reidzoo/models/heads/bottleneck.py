"""A narrow layer between feature and classifier, which is the embedding.

Source: Zheng et al., Person_reID_baseline_pytorch, whose networks (with softmax alone, or with metric losses) and PCB
end in this block.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models._surgery import has_last_stride, set_last_stride
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
        pool: ``"backbone"`` takes the backbone's feature, ``"average"`` a `mean` of its own.
        last_stride: Of a ResNet or DenseNet, 1 (it keeps its resolution, as the zoo's do) or 2; 0 leaves it as it is.
    """

    name = "bottleneck"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        width: int = 512,
        dropout: float = 0.5,
        pool: str = "backbone",
        last_stride: int = 0,
    ) -> None:
        super().__init__()
        if pool not in ("backbone", "average"):
            raise ConfigError(f"pool is 'backbone' or 'average', not {pool!r}.")
        self.block = ClassBlock(in_features, num_classes, width=width, dropout=dropout)
        self.in_features, self.num_classes, self.embed_dim = in_features, num_classes, self.block.width
        self.options: dict[str, Any] = {"width": width, "dropout": dropout, "pool": pool, "last_stride": last_stride}

    def attach(self, backbone: nn.Module) -> None:
        """Set the last stride; from then on the options say which one it is.

        Raises:
            ConfigError: The backbone has none to set.
        """
        stride = self.options["last_stride"]
        if stride and not has_last_stride(backbone):
            name = getattr(backbone, "reidzoo_name", "") or type(backbone).__name__
            raise ConfigError(
                f"last_stride is for ResNets and DenseNets of timm, not {name}. Set it to 0 (command line: "
                "--last-stride 0)."
            )
        self.options["last_stride"] = set_last_stride(backbone, stride)

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Tensor:
        """Return the backbone's feature ``(B, D)``, or a mean."""
        if self.options["pool"] == "average":
            return mean(backbone, x, self.in_features)
        feature: Tensor = backbone(x, *camids)
        return feature

    def forward(self, x: Tensor) -> HeadOutput | Tensor:
        """``(B, D)`` -> `HeadOutput` in training, ``(B, width)`` in eval mode."""
        return self.classify(x) if self.training else self.block.embed(x)

    def classify(self, x: Tensor) -> HeadOutput:
        """Return logits and feature in either mode."""
        logits, feature = self.block(x)
        return HeadOutput([logits], [feature])


def mean(backbone: Any, x: Tensor, width: int) -> Tensor:
    """Average the last map of images ``(B, 3, H, W)``, or all tokens, class and registers among them.

    timm's own features go further in some networks: ConvNeXt normalises what is pooled, DenseNet has a ReLU in front of
    the pooling, transformers take the class token or leave it out. The release's do not.

    Args:
        backbone: Gives maps ``(B, width, h, w)`` or ``(B, h, w, width)``, or tokens ``(B, n, width)``.
        x: The images.
        width: Of the result.

    Returns:
        ``(B, width)``.

    Raises:
        ConfigError: It gives something else.
    """
    layers: Any = getattr(backbone, "features", None)
    if isinstance(getattr(layers, "norm5", None), nn.BatchNorm2d):  # DenseNet's last norm, without its ReLU
        for layer in list(layers)[:-1]:
            x = layer(x)
        y: Tensor = nn.BatchNorm2d.forward(layers.norm5, x)
    else:
        y = backbone.forward_features(x)
    if y.ndim == 4 and y.shape[1] == width:
        return y.mean((2, 3))
    if y.ndim in (3, 4) and y.shape[-1] == width:
        return y.flatten(1, -2).mean(1)
    name = getattr(backbone, "reidzoo_name", "") or type(backbone).__name__
    raise ConfigError(
        f"pool='average' needs a last map or tokens of width {width}, and {name} gives {tuple(y.shape)}. Leave it out."
    )
