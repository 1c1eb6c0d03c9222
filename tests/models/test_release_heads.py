"""The heads of PCB and of layumi's baseline, and what they do to the trunk, against plain computations."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models._surgery import set_last_stride
from reidzoo.models.heads import PCB, BNNeck, Bottleneck, ReIDModel, create_head


def test_class_block_by_hand() -> None:
    torch.manual_seed(0)
    head, x = Bottleneck(6, 4, width=3, dropout=0.0), torch.randn(5, 6)
    block = head.block
    w, b = block.reduce.weight.detach().numpy(), block.reduce.bias.detach().numpy()
    z = x.numpy() @ w.T + b
    normed = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) * block.norm.weight.detach().numpy()
    logits = normed @ block.classifier.weight.detach().numpy().T
    out = head(x)
    np.testing.assert_allclose(out.features[0].detach(), normed, atol=1e-5)
    np.testing.assert_allclose(out.logits[0].detach(), logits, atol=1e-5)
    assert head.eval()(x).shape == (5, head.embed_dim) == (5, 3)
    whole = Bottleneck(6, 4, width=0)
    assert (whole.embed_dim, len(list(whole.block.reduce.parameters()))) == (6, 0)


def test_class_block_starts_and_drops_as_the_release_does() -> None:
    torch.manual_seed(0)
    block = Bottleneck(400, 300).block
    assert float(block.reduce.weight.detach().std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)  # Kaiming, fan-out
    assert float(block.norm.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert float(block.classifier.weight.detach().std()) == pytest.approx(1e-4, rel=0.02)
    assert not any(p.any() for p in (block.reduce.bias, block.norm.bias, block.classifier.bias))
    feature = Bottleneck(400, 3).train()(torch.randn(64, 400)).features[0]
    assert float((feature == 0).float().mean()) == pytest.approx(0.5, abs=0.02)  # behind the dropout


def test_pcb_by_hand() -> None:
    """Rows of the map in six groups; for testing each group's mean has length 1 / sqrt(6)."""
    torch.manual_seed(0)
    head, maps = PCB(2048, 7).eval(), torch.randn(2, 2048, 24, 8)
    expected = np.zeros((2, 2048, 6))
    for i in range(2):
        for part in range(6):
            mean = maps[i, :, 4 * part : 4 * part + 4].double().numpy().mean((1, 2))
            expected[i, :, part] = mean / np.linalg.norm(mean) / np.sqrt(6)
    out = head.finish(head(maps))
    assert out.shape == (2, head.embed_dim) == (2, 12288)
    np.testing.assert_allclose(out, expected.reshape(2, -1), atol=1e-6)
    np.testing.assert_allclose(out.norm(dim=1), 1, atol=1e-5)
    still = PCB(16, 7, width=4, dropout=0.0)
    logits = still(maps[:, :16]).logits
    for part, block in enumerate(still.blocks):
        pooled = maps[:, :16, 4 * part : 4 * part + 4].mean((2, 3))
        torch.testing.assert_close(logits[part], copy.deepcopy(block)(pooled)[0])


def test_gem_and_the_last_stride() -> None:
    """A ResNet of timm gets a map of twice the size, and its cubes' mean is the feature."""
    torch.manual_seed(0)
    backbone = reidzoo.create_model("timm/test_resnet", img_size=(64, 32)).eval()
    x = torch.randn(2, 3, 64, 32)
    small = backbone.forward_features(x).shape
    model = ReIDModel(backbone, BNNeck(backbone.embed_dim, 5, pool="gem", last_stride=1)).eval()
    maps = backbone.forward_features(x)
    assert maps.shape[2:] == (2 * small[2], 2 * small[3])
    cubes = np.maximum(maps.detach().double().numpy(), 1e-6) ** 3
    np.testing.assert_allclose(model(x).detach(), cubes.mean((2, 3)) ** (1 / 3), rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "resnet26d", "res2net50_26w_4s", "resnest26d", "resnetblur50"])
def test_the_last_stride_there_and_back(name: str) -> None:
    """Stride 1 doubles the map, stride 2 brings every feature back; the zoo's ResNets, which have 1, can have 2 too."""
    few = {} if name == "test_resnet" else {"layers": [1, 1, 1, 1]}  # the former's blocks are of two kinds
    net = reidzoo.create_model(f"timm/{name}", img_size=(64, 32), zero_init_last=False, **few).eval()
    x = torch.randn(1, 3, 64, 32)
    before = net.forward_features(x)
    assert set_last_stride(net, 0) == 2
    assert set_last_stride(net, 1) == 1
    assert net.forward_features(x).shape == (*before.shape[:2], 2 * before.shape[2], 2 * before.shape[3])
    assert set_last_stride(net, 2) == 2
    assert torch.equal(net.forward_features(x), before)


def test_a_file_says_the_last_stride(tmp_path: Path) -> None:
    """Also where a head was told to leave the network as it is, and another one had changed it before."""
    x = torch.randn(1, 3, 64, 32)
    model = ReIDModel(reidzoo.create_model("resnet18_ibn"), Bottleneck(512, 5, last_stride=2)).eval()
    assert model.backbone.forward_features(x).shape[2:] == (2, 1)
    for head in (model.head, BNNeck(512, 5), Bottleneck(512, 5)):
        other = ReIDModel(model.backbone, head).eval()
        assert other.head.options["last_stride"] == 2
        reidzoo.weights.save_model(other, tmp_path)
        assert torch.equal(reidzoo.create_model(f"local-dir:{tmp_path}").eval()(x), other(x))


def test_the_last_stride_of_others() -> None:
    dense = reidzoo.create_model("timm/densenet121", img_size=(64, 32), growth_rate=4, block_config=(1, 1, 1, 1))
    x = torch.randn(2, 3, 64, 32)
    before = dense.forward_features(x).shape
    ReIDModel(dense, Bottleneck(dense.embed_dim, 5, last_stride=1))
    assert dense.forward_features(x).shape == (*before[:2], 2 * before[2], 2 * before[3])
    vit = reidzoo.create_model("timm/test_vit", img_size=(32, 16))
    with pytest.raises(ConfigError, match="last_stride is for ResNets and DenseNets of timm, not timm/test_vit"):
        ReIDModel(vit, Bottleneck(vit.embed_dim, 5, last_stride=1))


@pytest.mark.parametrize("head", ["pcb", "bnneck"])
def test_a_head_for_maps_refuses_tokens(head: str) -> None:
    backbone = reidzoo.create_model("timm/test_vit", img_size=(32, 16))
    options = {"pool": "gem"} if head == "bnneck" else {}
    model = ReIDModel(backbone, create_head(head, backbone.embed_dim, 5, **options))
    with pytest.raises(ConfigError, match=r"needs a last map \(batch, 64, height, width\), and timm/test_vit gives"):
        model(torch.randn(2, 3, 32, 16))


MAPS = ("test_convnext", "hrnet_w18_small")  # channels first
TRUNKS: dict[str, dict[str, Any]] = {
    "densenet121": {"growth_rate": 4, "block_config": (1, 1, 1, 1)},
    "test_convnext": {},
    "vit_base_patch16_dinov3": {"depth": 1, "embed_dim": 48, "num_heads": 2},
    "test_vit": {},
    "hrnet_w18_small": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2), "window_size": 2},
}


@pytest.mark.parametrize("name", TRUNKS)
def test_the_mean_without_a_last_layer(name: str, tmp_path: Path) -> None:
    """What the release averages: maps without ConvNeXt's norm and DenseNet's ReLU, all tokens of a transformer."""
    backbone = reidzoo.create_model(f"timm/{name}", img_size=(64, 32), **TRUNKS[name]).eval()
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
        x = torch.randn(2, 3, 64, 32)
        head = Bottleneck(backbone.embed_dim, 5, pool="average")
        found = head.read(backbone, x)
        if name == "densenet121":
            last: list[torch.Tensor] = []
            norm = backbone.features.norm5
            norm.register_forward_pre_hook(lambda _, args: last.append(args[0].clone()))
            backbone(x)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            y = (last[0] - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            expected = y.mean((2, 3))
            assert float(expected.min()) < 0
        else:
            y = backbone.stages(backbone.stem(x)) if name == "test_convnext" else backbone.forward_features(x)
            places = [image.flatten(1).T if name in MAPS else image.flatten(0, -2) for image in y]
            expected = torch.stack([place.mean(0) for place in places])
            if name == "vit_base_patch16_dinov3":
                assert y.shape[1] == 1 + 4 + 8  # class, registers, patches
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        assert torch.allclose(found, backbone(x), atol=1e-5) == name.startswith(("swin", "hrnet"))
        model = ReIDModel(backbone, head).eval()
        reidzoo.weights.save_model(model, tmp_path)
        assert torch.equal(reidzoo.create_model(f"local-dir:{tmp_path}").eval()(x), model(x))


def test_a_mean_that_cannot_be() -> None:
    ghost = reidzoo.create_model("ghostnet_0_5")
    with pytest.raises(ConfigError, match="pool='average' needs a last map or tokens of width 1280, and ghostnet_0_5"):
        Bottleneck(ghost.embed_dim, 5, pool="average").read(ghost, torch.randn(2, 3, 64, 32))
