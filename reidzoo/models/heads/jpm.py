"""TransReID's jigsaw patch module: a global branch, and local ones that see mixed groups of patches.

Source: He et al., "TransReID: Transformer-based Object Re-Identification", ICCV 2021, section 3.2.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from reidzoo.errors import ConfigError
from reidzoo.models.heads.base import Head, HeadOutput
from reidzoo.models.heads.bnneck import BNNeck


class JPM(Head):
    """BNNecks on the class token of the whole image and on those of some groups of patches.

    The global branch is the backbone as it is. For the local ones, the patch tokens in front of its last block are
    shifted and shuffled and dealt out in equal groups; each group passes, behind the class token, through a copy of the
    last block and norm that the groups share.

    Args:
        in_features: Width D of the tokens.
        num_classes: Identities of the training set.
        shift: Patches are rolled by ``shift - 1``: the reference counts from the class token on. 8 for vehicles.
        shuffle_groups: Consecutive runs of patches that are interleaved; 1 leaves their order.
        parts: Local branches. Patches that are over are in none.
        neck_feature: As of `BNNeck`. The embedding is [global, local / parts, ...], (1 + parts) D wide.
        cosine: As of `BNNeck`.

    Raises:
        ConfigError: A value out of range.
    """

    name = "jpm"

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        shift: int = 5,
        shuffle_groups: int = 2,
        parts: int = 4,
        neck_feature: str = "before",
        cosine: bool = False,
    ) -> None:
        super().__init__()
        if min(shift, shuffle_groups, parts) < 1:
            raise ConfigError(
                f"jpm: shift, shuffle_groups and parts are {shift}, {shuffle_groups}, {parts}; expected at least 1."
            )
        self.num_classes, self.embed_dim = num_classes, (1 + parts) * in_features
        neck: dict[str, Any] = {"neck_feature": neck_feature, "cosine": cosine}
        self.options = {"shift": shift, "shuffle_groups": shuffle_groups, "parts": parts, **neck}
        self.necks = nn.ModuleList(BNNeck(in_features, num_classes, **neck) for _ in range(1 + parts))

    def attach(self, backbone: nn.Module) -> None:
        """Copy the last block and norm for the local branches.

        Raises:
            ConfigError: The backbone is no ViT with a class token.
        """
        from reidzoo.models.vit import set_options

        vit: Any = set_options(backbone)
        if vit.num_prefix_tokens != 1:
            raise ConfigError(
                f"head='jpm' needs a ViT whose only special token is the class token; {vit.reidzoo_name!r} has "
                f"{vit.num_prefix_tokens}. Choose vit_tiny, vit_small, vit_base or transreid_ssl_vit_small."
            )
        self.b2 = nn.Sequential(copy.deepcopy(vit.blocks[-1]), copy.deepcopy(vit.norm))

    def read(self, backbone: Any, x: Tensor, *camids: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` -> the feature ``(B, D)``, and the tokens ``(B, 1 + N, D)`` that the last block takes."""
        tokens = backbone.forward_tokens(x, *camids)
        return backbone.forward_head(backbone.norm(backbone.blocks[-1](tokens))), tokens

    def forward(self, read: tuple[Tensor, Tensor]) -> HeadOutput | Tensor:
        """What `read` gives -> `HeadOutput` of 1 + parts, global first; ``(B, (1 + parts) D)`` in eval mode."""
        whole, tokens = read
        outputs = [neck(x) for neck, x in zip(self.necks, [whole, *self._local_features(tokens)], strict=True)]
        if self.training:
            return HeadOutput([o.logits[0] for o in outputs], [o.features[0] for o in outputs])
        return torch.cat([outputs[0], *(o / self.options["parts"] for o in outputs[1:])], dim=1)

    def _local_features(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """``(B, 1 + N, D)`` -> `parts` times ``(B, D)``."""
        batch, count, dim = tokens.shape
        parts: int = self.options["parts"]
        length = (count - 1) // parts
        if length == 0:
            raise ConfigError(
                f"head='jpm' deals {count - 1} patches out to {parts} parts: use larger images, a smaller stride or "
                "fewer parts."
            )
        patches = jigsaw(tokens[:, 1:], self.options["shift"], self.options["shuffle_groups"])
        groups = patches[:, : parts * length].reshape(batch, parts, length, dim)
        groups = torch.cat([tokens[:, None, :1].expand(-1, parts, -1, -1), groups], dim=2)
        # All parts go through the shared block at once.
        local: Tensor = self.b2(groups.flatten(0, 1))[:, 0]
        return local.view(batch, parts, dim).unbind(1)


def jigsaw(patches: Tensor, shift: int, groups: int) -> Tensor:
    """Roll patches ``(B, N, D)`` by ``shift - 1``, cut them into `groups` consecutive runs and interleave these.

    If `groups` does not divide N, copies of the last but one are put behind them first, as the reference does: 12
    patches, shift 5 and 2 groups become 5 11 6 12 7 1 8 2 9 3 10 4, and 13 become 5 12 6 13 7 1 8 2 9 3 10 4 11 3.
    """
    batch, count, dim = patches.shape
    patches = torch.cat([patches[:, shift - 1 :], patches[:, : shift - 1]], dim=1)
    missing = -count % groups
    patches = torch.cat([patches, patches[:, -2:-1].expand(-1, missing, -1)], dim=1)
    return patches.view(batch, groups, -1, dim).transpose(1, 2).reshape(batch, -1, dim)
