"""Heads: what they return in training and evaluation, how they start, what they save."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models import BNNeck, DINOHead, HeadOutput, LinearHead, ReIDModel
from reidzoo.models.heads import create_head


def test_bnneck_trains_before_and_classifies_after_the_norm():
    head, x = BNNeck(16, 5).train(), torch.randn(8, 16) * 3 + 1
    out = head(x)
    assert isinstance(out, HeadOutput)
    assert out.features[0] is x
    a = x.double().numpy()
    normed = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-5)
    expected = normed @ head.classifier.weight.detach().double().numpy().T
    np.testing.assert_allclose(out.logits[0].detach().numpy(), expected, atol=1e-5)


def test_bnneck_start():
    torch.manual_seed(0)
    head = BNNeck(64, 2000)
    assert head.classifier.bias is None
    assert float(head.classifier.weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert torch.equal(head.bottleneck.weight, torch.ones(64))
    assert torch.equal(head.bottleneck.bias, torch.zeros(64))
    assert not head.bottleneck.bias.requires_grad
    assert "bottleneck.bias" in head.state_dict()


@pytest.mark.parametrize("neck_feature", ["before", "after"])
def test_bnneck_retrieval_feature(neck_feature):
    head, x = BNNeck(16, 5, neck_feature=neck_feature), torch.randn(8, 16)
    head(x * 2 + 1)  # moves the running statistics
    out = head.eval()(x)
    bn = head.bottleneck
    normed = (x - bn.running_mean) / torch.sqrt(bn.running_var + 1e-5)
    torch.testing.assert_close(out, x if neck_feature == "before" else normed)
    assert torch.equal(head(x[:1]), out[:1])


def test_bnneck_reduces_the_feature_before_all_else():
    torch.manual_seed(0)
    head, x = BNNeck(40, 5, width=8), torch.randn(6, 40)
    bound = (6 / (40 + 8)) ** 0.5  # Xavier, uniform
    assert 0.95 * bound < float(head.reduce.weight.detach().abs().max()) <= bound
    assert (head.embed_dim, head.reduce.bias, head.options["width"]) == (8, None, 8)
    a = x.double().numpy() @ head.reduce.weight.detach().double().numpy().T
    logits, (feature,) = head(x)
    np.testing.assert_allclose(feature.detach().numpy(), a, atol=1e-5)
    expected = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-5) @ head.classifier.weight.detach().double().numpy().T
    np.testing.assert_allclose(logits[0].detach().numpy(), expected, atol=1e-5)
    torch.testing.assert_close(head.eval()(x), feature)


@pytest.mark.parametrize("pool", ["backbone", "gem"])
def test_bnneck_norms_the_last_map(pool):
    """In training by the statistics of all positions; what is pooled then has negative values."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 8, 4, stride=4)
    model = ReIDModel(net, BNNeck(8, 5, map_norm=True, pool=pool)).train()
    images = torch.randn(4, 3, 16, 8)
    y = net(images).detach().double().numpy()
    y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
    expected = y.mean((2, 3)) if pool == "backbone" else (np.clip(y, 1e-6, None) ** 3).mean((2, 3)) ** (1 / 3)
    np.testing.assert_allclose(model(images).features[0].detach().numpy(), expected, atol=1e-5)


def test_bnneck_refuses_another_neck():
    with pytest.raises(ConfigError, match="'before' or 'after'"):
        BNNeck(4, 2, neck_feature="middle")


def test_linear_head():
    head, x = LinearHead(16, 5), torch.randn(8, 16)
    out = head(x)
    torch.testing.assert_close(out.logits[0], x @ head.classifier.weight.T)
    assert torch.equal(head.eval()(x), x)


def test_unknown_head_and_missing_classes():
    with pytest.raises(ConfigError, match=r"'bnneck'.*Heads: bnneck, linear"):
        create_head("bneck", 8, 3)
    with pytest.raises(ConfigError, match="num_classes >= 1"):
        create_head("bnneck", 8, 0)


def test_reid_model_joins_both():
    model = reidzoo.create_model("ghostnet_0_5", head="bnneck", num_classes=7)
    assert isinstance(model, ReIDModel)
    assert (model.embed_dim, model.reidzoo_name, model.head.num_classes) == (1280, "ghostnet_0_5", 7)
    assert model.pretrained_cfg is model.backbone.pretrained_cfg
    logits, features = model(torch.rand(2, 3, 64, 32))
    assert (logits[0].shape, features[0].shape) == ((2, 7), (2, 1280))
    assert model.eval() is model
    with torch.inference_mode():
        x = torch.rand(1, 3, 64, 32)
        assert torch.equal(model(x), model.backbone(x))


def test_dino_head_gives_cosines_with_unit_rows():
    torch.manual_seed(0)
    head, x = DINOHead(24, 50, hidden_dim=32, bottleneck_dim=8), torch.randn(6, 24)
    v = head.last_layer.weight_v.detach().double().numpy()
    z = head.mlp(x).detach().double().numpy()
    expected = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T
    np.testing.assert_allclose(head(x).detach().numpy(), expected, atol=1e-6)
    assert float(head(x).detach().abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(head.bottleneck(x) @ head.last_layer.weight.T, head(x))
    torch.testing.assert_close(head.bottleneck(x).norm(dim=1), torch.ones(6))


def test_dino_head_start_and_names():
    torch.manual_seed(0)
    head = DINOHead(64, 1000)
    assert set(head.state_dict()) == {
        "last_layer.weight_g",
        "last_layer.weight_v",
        *(f"mlp.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")),
    }
    assert float(head.mlp[2].weight.detach().std()) == pytest.approx(0.02, rel=0.01)
    assert all(float(head.mlp[i].bias.detach().abs().max()) == 0 for i in (0, 2, 4))
    assert not head.last_layer.weight_g.requires_grad
    assert torch.equal(head.last_layer.weight_g, torch.ones(1000, 1))
    bound = 1 / 256**0.5  # torch's default for a linear layer: uniform within 1 / sqrt(fan_in)
    assert 0.99 * bound < float(head.last_layer.weight_v.detach().abs().max()) <= bound


@pytest.mark.parametrize("head", ["pcb", "bnneck"])
def test_maps_of_a_network_that_timm_did_not_make(head):
    """What it gives is its last map, or it has none, which is said."""
    net = torch.nn.Conv2d(3, 8, 4, stride=4)
    options = {"pool": "gem"} if head == "bnneck" else {}
    joined = ReIDModel(net, create_head(head, 8, 5, **options)).eval()
    assert joined(torch.randn(2, 3, 32, 16)).shape == (2, joined.embed_dim)
    joined.backbone = torch.nn.Flatten()
    with pytest.raises(ConfigError, match=r"needs a last map \(batch, 8, .*, and Flatten gives \(2, 1536\)"):
        joined(torch.randn(2, 3, 32, 16))


def test_dino_head_can_be_copied_and_restored():
    head, x = DINOHead(24, 50, hidden_dim=32, bottleneck_dim=8), torch.randn(6, 24)
    twin, other = copy.deepcopy(head), DINOHead(24, 50, hidden_dim=32, bottleneck_dim=8)
    other.load_state_dict(head.state_dict())
    assert torch.equal(twin(x), head(x))
    assert torch.equal(other(x), head(x))


def test_default_width_is_that_of_the_released_heads():
    with torch.device("meta"):
        assert DINOHead(2048).last_layer.weight_v.shape == (65336, 256)
