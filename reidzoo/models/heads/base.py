"""The contract between backbone and head."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from reidzoo.errors import ConfigError, did_you_mean


class HeadOutput(NamedTuple):
    """What a head returns in training mode.

    Attributes:
        logits: One ``(B, num_classes)`` tensor per classifier.
        features: One ``(B, D)`` tensor per metric loss, un-normalised.
    """

    logits: list[Tensor]
    features: list[Tensor]


class Head(nn.Module):
    """Base of the fine-tuning heads: what `read` gives -> `HeadOutput` in training, ``(B, embed_dim)`` in eval mode.

    Attributes:
        name: Its name in `create_model`.
        num_classes: Identities of the training set.
        embed_dim: Width of the retrieval embedding.
        options: Further constructor arguments, enough to build the same head again.
    """

    name: str
    num_classes: int
    embed_dim: int
    options: dict[str, Any]

    def attach(self, backbone: nn.Module) -> None:
        """Copy what the head starts from out of `backbone`: when they are joined, and when that got other weights."""

    def read(self, backbone: nn.Module, x: Tensor, *camids: Tensor) -> Any:
        """Return what the head wants of the images ``(B, 3, H, W)``: the feature ``(B, D)``, or maps or tokens.

        Of a backbone that `takes_cameras`, `camids` are theirs, (B,), if they are known.
        """
        return backbone(x, *camids)

    def finish(self, embedding: Tensor) -> Tensor:
        """Make the retrieval embedding ``(B, embed_dim)`` of what `forward` gives in eval mode, or of a mean of that.

        Mirror images and several sizes of an image are averaged before it.
        """
        return embedding


class ReIDModel(nn.Module):
    """A backbone with a head.

    ``(B, 3, H, W)`` -> `HeadOutput` in training mode, the ``(B, embed_dim)`` retrieval embedding in eval mode.

    Attributes:
        backbone: A model of `create_model`, or any module with the same attributes.
        head: The head.
        embed_dim: Width of the retrieval embedding.
        reidzoo_name: The backbone's name.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        head.attach(backbone)
        self.backbone = backbone
        self.head = head
        self.embed_dim = head.embed_dim
        self.reidzoo_name = str(getattr(backbone, "reidzoo_name", ""))

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """The backbone's input size and normalisation, in timm's form."""
        cfg: Any = self.backbone.pretrained_cfg
        return cfg  # type: ignore[no-any-return]

    @property
    def takes_cameras(self) -> bool:
        """Whether the backbone uses the cameras of the images (TransReID's side information)."""
        return bool(getattr(self.backbone, "takes_cameras", False))

    def forward(self, x: Tensor, *camids: Tensor, finish: bool = True) -> HeadOutput | Tensor:
        """Apply backbone and head to images (B, 3, H, W); to a backbone that takes them go their cameras (B,) too.

        Without `finish`, embeddings are those of views of an image, for `Head.finish` to have their mean.
        """
        out: HeadOutput | Tensor = self.head(self.head.read(self.backbone, x, *camids))
        return self.head.finish(out) if finish and isinstance(out, Tensor) else out


def create_head(name: str, in_features: int, num_classes: int, **options: Any) -> Head:
    """Build a fine-tuning head by name.

    Raises:
        ConfigError: There is no such head, or `num_classes` is below 1.
    """
    from reidzoo.models.heads.bnneck import BNNeck
    from reidzoo.models.heads.bottleneck import Bottleneck
    from reidzoo.models.heads.jpm import JPM
    from reidzoo.models.heads.linear import LinearHead
    from reidzoo.models.heads.mgn import MGN
    from reidzoo.models.heads.multineck import MultiNeck
    from reidzoo.models.heads.pcb import PCB

    heads: dict[str, type[Head]] = {cls.name: cls for cls in (BNNeck, LinearHead, Bottleneck, PCB, MGN, JPM, MultiNeck)}
    if name not in heads:
        raise ConfigError(f"There is no head {name!r}.{did_you_mean(name, heads)} Heads: {', '.join(heads)}.")
    if num_classes < 1:
        raise ConfigError(f"head={name!r} classifies identities: pass num_classes >= 1, not {num_classes}.")
    return heads[name](in_features, num_classes, **options)
