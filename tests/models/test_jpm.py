"""TransReID's jigsaw patches: the order of the patches, the branches, and what a file keeps of them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models.heads import HeadOutput, create_head
from reidzoo.models.heads.jpm import jigsaw

TINY = {"depth": 3, "embed_dim": 16, "num_heads": 2}


def order(n: int, shift: int, groups: int) -> list[int]:
    """The rule on token numbers, class token 0: shift counts from it on; runs of the shifted row are dealt out."""
    row = list(range(shift, n + 1)) + list(range(1, shift))
    while len(row) % groups:
        row.append(row[n - 2])
    size = len(row) // groups
    return [row[g * size + i] for i in range(size) for g in range(groups)]


@pytest.mark.parametrize(
    ("n", "shift", "groups", "expected"),
    [
        (12, 5, 2, [5, 11, 6, 12, 7, 1, 8, 2, 9, 3, 10, 4]),
        (13, 5, 2, [5, 12, 6, 13, 7, 1, 8, 2, 9, 3, 10, 4, 11, 3]),
        (13, 8, 3, None),
        (10, 1, 1, list(range(1, 11))),
        (3, 5, 2, None),
    ],
)
def test_order_of_the_patches(n: int, shift: int, groups: int, expected: list[int] | None) -> None:
    expected = order(n, min(shift, n + 1), groups) if expected is None else expected
    assert order(n, min(shift, n + 1), groups) == expected
    patches = torch.arange(1, n + 1).view(1, n, 1).expand(2, n, 3)
    found = jigsaw(patches, shift, groups)
    assert found.shape == (2, len(expected), 3)
    assert found[1, :, 2].tolist() == expected


def model(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return reidzoo.create_model("vit_tiny", head="jpm", num_classes=5, **TINY, **options)


def one_by_one(net: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """Features of one image, global first: every branch alone, its tokens gathered by number."""
    backbone, head = net.backbone, net.head
    tokens = backbone._pos_embed(backbone.patch_embed(x))
    for block in list(backbone.blocks)[:-1]:
        tokens = block(tokens)
    features = [backbone.norm(backbone.blocks[-1](tokens))[:, 0]]
    numbers, n = order(tokens.shape[1] - 1, 5, 2), tokens.shape[1] - 1
    for part in range(4):
        chosen = [0, *numbers[part * (n // 4) : (part + 1) * (n // 4)]]
        features.append(head.b2[1](head.b2[0](tokens[:, chosen]))[:, 0])
    return features


def test_branches_are_those_of_the_description() -> None:
    net = model().eval()
    for p in net.head.b2.parameters():  # the copies have learned something of their own
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(2, 3, 112, 32)  # 7 x 2 patches: 3 for each part, 2 left over
    with torch.no_grad():
        expected = torch.cat([torch.cat([f / (4 if i else 1) for i, f in enumerate(one_by_one(net, x[j : j + 1]))], 1)
                              for j in range(2)])  # fmt: skip
        torch.testing.assert_close(net(x), expected, atol=1e-5, rtol=1e-5)
    assert net.embed_dim == 5 * 16 == net(x).shape[1]


def test_training_gives_five_of_each() -> None:
    net = model().train()
    out = net(torch.randn(4, 3, 64, 32))
    assert isinstance(out, HeadOutput)
    assert [t.shape for t in out.logits] == [(4, 5)] * 5
    assert [t.shape for t in out.features] == [(4, 16)] * 5
    a = out.features[3].detach().double().numpy()
    normed = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-5)
    weight = net.head.necks[3].classifier.weight.detach().double().numpy()
    np.testing.assert_allclose(out.logits[3].detach().numpy(), normed @ weight.T, atol=1e-4)
    assert not torch.allclose(out.features[1], out.features[2], atol=1e-3)


def test_every_parameter_learns() -> None:
    """The global branch is the backbone's own last block, so no copy lies idle (DDP would wait for its gradient)."""
    net = model().train()
    out = net(torch.randn(4, 3, 64, 32))
    (sum(t.square().sum() for t in out.logits) + sum(t.std() for t in out.features)).backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        net = model().train()
        net.backbone.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        sum(t.square().sum() for t in net(torch.randn(4, 3, 64, 32)).logits).backward()
        gradients.append(net.backbone.patch_embed.proj.weight.grad)
    assert torch.equal(*gradients)


def test_after_the_neck() -> None:
    net = model().eval()
    torch.nn.init.uniform_(net.head.necks[2].bottleneck.running_var, 0.5, 2)
    x = torch.randn(2, 3, 64, 32)
    before = net(x).view(2, 5, 16)
    net.head.necks[2].options["neck_feature"] = "after"
    after = net(x).view(2, 5, 16)
    expected = before[:, 2] / torch.sqrt(net.head.necks[2].bottleneck.running_var + 1e-5)
    torch.testing.assert_close(after[:, 2], expected)
    assert torch.equal(after[:, 3], before[:, 3])


def test_file_brings_the_model_back(tmp_path: Path) -> None:
    net = model().eval()
    torch.nn.init.normal_(net.head.b2[1].weight)
    reidzoo.weights.save_model(net, tmp_path)
    again = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    x = torch.randn(2, 3, 64, 32)
    assert torch.equal(again(x), net(x))


def test_local_block_starts_from_the_weights_that_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    backbone = reidzoo.create_model("vit_tiny", **TINY)
    reidzoo.weights.save_model(backbone, tmp_path)
    net = model(weights=tmp_path)
    copies = {**net.head.b2[0].state_dict(prefix="blocks.2."), **net.head.b2[1].state_dict(prefix="norm.")}
    state = backbone.state_dict()
    assert all(torch.equal(t, state[key]) for key, t in copies.items())
    # The backbone of such a model is whole: it gives the global feature.
    x = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(net.eval()(x)[:, :16], net.backbone(x))


def test_timm_vit_and_other_options() -> None:
    net = reidzoo.create_model("timm/vit_tiny_patch16_224", head="jpm", num_classes=3, img_size=(64, 32), **TINY)
    assert net(torch.randn(2, 3, 64, 32)).logits[4].shape == (2, 3)
    head = create_head("jpm", 16, 3, shift=8, shuffle_groups=4, parts=2, cosine=True)
    head.attach(copy.deepcopy(net.backbone))
    assert head.embed_dim == 48
    out = head(head.read(net.backbone, torch.randn(2, 3, 64, 32)))
    assert [t.shape for t in out.features] == [(2, 16)] * 3
    assert float(out.logits[1].detach().abs().max()) <= 1 + 1e-5


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match=r"'resnet18' is no ViT with a class token.*vit_base"):
        reidzoo.create_model("resnet18", head="jpm", num_classes=3)
    with pytest.raises(ConfigError, match=r"only special token is the class token; 'pass_vit_small' has 4"):
        reidzoo.create_model("pass_vit_small", head="jpm", num_classes=3, depth=1)
    with pytest.raises(ConfigError, match=r"shift, shuffle_groups and parts are 5, 0, 4"):
        create_head("jpm", 16, 3, shuffle_groups=0)
    with pytest.raises(ConfigError, match=r"deals 2 patches out to 4 parts.*larger images"):
        model()(torch.randn(2, 3, 32, 16))
