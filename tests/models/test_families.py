"""What each family must have that a plain timm model does not, checked one by one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import nn

import reidzoo
from reidzoo.models._surgery import retype
from reidzoo.models.layers import IBN, resize_grid


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_keeps_resolution_in_the_last_stage(name):
    model = reidzoo.create_model(name).eval()
    with torch.inference_mode():
        assert model.forward_features(torch.rand(1, 3, 256, 128)).shape[2:] == (16, 8)
    assert all(m.dilation == (1, 1) for m in model.modules() if isinstance(m, nn.Conv2d))
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16, 16]


@pytest.mark.parametrize(("name", "blocks"), [("resnet18_ibn", 6), ("resnet50_ibn", 13)])
def test_ibn_sits_in_the_first_norm_of_stages_1_to_3(name, blocks):
    with torch.device("meta"):
        model = reidzoo.create_model(name)
    places = [key for key, m in model.named_modules() if isinstance(m, IBN)]
    assert len(places) == blocks
    assert all(key.split(".")[0] in ("layer1", "layer2", "layer3") and key.endswith("bn1") for key in places)


def test_ibn_is_instance_norm_then_batch_norm():
    layer, x = IBN(6).train(), torch.randn(4, 6, 5, 3, generator=torch.Generator().manual_seed(0))
    nn.init.uniform_(layer.IN.weight), nn.init.uniform_(layer.BN.bias)
    a = x.numpy().astype(np.float64)
    per_image = (a - a.mean((2, 3), keepdims=True)) / np.sqrt(a.var((2, 3), keepdims=True) + 1e-5)
    per_batch = (a - a.mean((0, 2, 3), keepdims=True)) / np.sqrt(a.var((0, 2, 3), keepdims=True) + 1e-5)
    weight, bias = layer.IN.weight.detach().numpy(), layer.BN.bias.detach().numpy()
    expected = np.concatenate(
        [per_image[:, :3] * weight[None, :, None, None], per_batch[:, 3:] + bias[None, :, None, None]], axis=1
    )
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 4), (24, 8), (12, 6), (17, 9)])
def test_positions_are_resized_by_the_shifted_ratio(size, resize_by_rule):
    grid = torch.randn(1, 16, 8, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(resize_grid(grid, size), resize_by_rule(grid, size), rtol=0, atol=1e-5)


def test_positions_of_the_stored_size_are_untouched():
    grid = torch.randn(1, 16, 8, 3)
    assert resize_grid(grid, (16, 8)) is grid


def test_swin_pads_before_it_shifts():
    """A 12x6 map and an 8x8 window: attention over the padded and rolled map, written out with a full token mask."""
    model = reidzoo.create_model("swin_tiny").eval()
    block = model.layers[0].blocks[1]
    nn.init.normal_(block.attn.relative_position_bias_table)
    height, width, dim, heads, window, shift = 12, 6, 96, 3, 8, 4
    assert (tuple(block.window_size), tuple(block.shift_size)) == ((8, 8), (4, 4))
    x = torch.randn(1, height, width, dim)
    padded = torch.zeros(16, 8, dim)
    padded[:height, :width] = x[0]
    rows, cols = torch.meshgrid(torch.arange(16), torch.arange(8), indexing="ij")
    # A token attends within its window of the rolled map and within its region before rolling.
    rolled = torch.stack([(rows - shift) % 16, (cols - shift) % 8], -1).view(-1, 2)
    place = rolled // window
    band = torch.stack([(rolled[:, 0] >= 8).int() + (rolled[:, 0] >= 12), (rolled[:, 1] >= 4).int()], 1)
    same = (place[:, None] == place[None]).all(-1) & (band[:, None] == band[None]).all(-1)
    inside = rolled % window
    offset = inside[:, None] - inside[None] + window - 1
    bias = block.attn.relative_position_bias_table[offset[..., 0] * (2 * window - 1) + offset[..., 1]].permute(2, 0, 1)
    with torch.inference_mode():
        qkv = block.attn.qkv(padded.view(-1, dim)).view(-1, 3, heads, dim // heads).permute(1, 2, 0, 3)
        scores = qkv[0] @ qkv[1].transpose(-2, -1) / math.sqrt(dim // heads) + bias
        attention = scores.masked_fill(~same, -torch.inf).softmax(-1)
        expected = block.attn.proj((attention @ qkv[2]).transpose(0, 1).reshape(-1, dim)).view(16, 8, dim)
        torch.testing.assert_close(block._attn(x)[0], expected[:height, :width], rtol=1e-4, atol=1e-5)
        other = copy.deepcopy(block)
        other.__class__ = SwinTransformerBlock
        assert (other._attn(x)[0] - expected[:height, :width]).abs().max() > 0.01  # timm shifts first


def test_repvit_squeeze_excite():
    with torch.device("meta"):
        model = reidzoo.create_model("repvit_m0_9")
    gates = [block.se for stage in model.stages for block in stage.blocks if not isinstance(block.se, nn.Identity)]
    assert len(gates) == 10
    assert all(gate.fc1.out_channels == 4 * round(gate.fc1.in_channels / 16) for gate in gates)
    assert all(isinstance(gate.gate, nn.Hardsigmoid) for gate in gates)
    assert model.stages[0].blocks[0].se.fc1.out_channels == 12  # timm: 16


def test_ghostnet_has_no_dropout_in_training_mode():
    model, x = reidzoo.create_model("ghostnet_0_5").train(), torch.rand(4, 3, 128, 64)
    assert torch.equal(model(x), model(x))
    assert model.embed_dim == 1280


def test_volo_feature_is_the_class_token():
    model, x = reidzoo.create_model("volo_d1").eval(), torch.rand(1, 3, 128, 64)
    with torch.inference_mode():
        assert torch.equal(model(x), model.forward_features(x)[:, 0])


@pytest.mark.parametrize(
    ("name", "eps"),
    [("vit_tiny", 1e-6), ("convnext_tiny", 1e-6), ("edgenext_x_small", 1e-6), ("swin_tiny", 1e-5), ("volo_d1", 1e-5)],
)
def test_epsilons_of_layer_norm(name, eps):
    """They change the outputs by less than the golden tolerance, so they are looked at here."""
    with torch.device("meta"):
        model = reidzoo.create_model(name)
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {eps}


def test_epsilons_of_batch_and_instance_norm():
    kinds = (nn.BatchNorm2d, nn.InstanceNorm2d)
    for name in ("resnet50_ibn", "vit_tiny", "ghostnet_0_5", "repvit_m0_9", "fastvit_sa12", "volo_d1"):
        with torch.device("meta"):
            model = reidzoo.create_model(name)
        assert {m.eps for m in model.modules() if isinstance(m, kinds)} <= {1e-5}, name


def test_resnet_starts_without_zeroed_norms():
    assert all(
        bool((m.weight == 1).all()) for m in reidzoo.create_model("resnet18").modules() if isinstance(m, nn.BatchNorm2d)
    )


def test_class_is_timms_own_and_survives_copying():
    for name in ("vit_tiny", "volo_d1"):
        model = reidzoo.create_model(name).eval()
        assert isinstance(model, type(timm.create_model(reidzoo.model_info(name).timm_name)))
        x = torch.rand(1, 3, 128, 64)
        with torch.inference_mode():
            assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_retype_refuses_another_class():
    with pytest.raises(TypeError, match="Conv2d is no Linear"):
        retype(nn.Linear(2, 2), nn.Conv2d)
