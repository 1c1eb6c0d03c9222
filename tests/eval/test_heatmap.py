"""Heat maps against plain computations: class activation maps of pooled networks, attention multiplied by hand."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import reidzoo
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval.heatmap import _grid, draw_heat_maps, heat_maps, overlay


def scaled(cam):
    cam = np.maximum(cam, 0)
    return cam / cam.max(axis=(1, 2), keepdims=True)


def test_grad_cam_of_a_pooled_network_is_its_class_activation_map(images):
    """The feature is the mean of the map, so that each channel weighs as the reference says."""
    torch.manual_seed(0)
    model = reidzoo.create_model("resnet18_ibn", img_size=(64, 32)).eval()
    x, reference = images(3, 64, 32), np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    with torch.no_grad():
        activation = model.forward_features(x).numpy()
    expected = scaled((activation * reference[:, :, None, None]).sum(1))
    found = heat_maps(model, x, reference=reference, batch_size=2)
    assert [h.shape for h in found] == [(4, 2)] * 3
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-5)
    # one reference for all, and by default the image's own feature
    one = heat_maps(model, x, reference=reference[0])
    np.testing.assert_allclose(one[0], expected[0], atol=1e-5)
    own = scaled((activation * activation.mean((2, 3))[:, :, None, None]).sum(1))
    np.testing.assert_allclose(np.stack(heat_maps(model, x)), own, atol=1e-5)


def test_channels_last_networks(images):
    """Swin's map is (B, h, w, C), and there is a norm between it and the feature."""
    torch.manual_seed(0)
    model = reidzoo.create_model("swin_tiny").eval()
    x = images(2, 128, 64)
    reference = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 768)).astype(np.float32))
    activation = model.layers(model.patch_embed(x))
    feature = model.norm(activation).mean(dim=(1, 2))
    (slope,) = torch.autograd.grad((feature * reference).sum(), activation)
    cam = (activation * slope.mean(dim=(1, 2), keepdim=True)).sum(-1).detach().numpy()
    np.testing.assert_allclose(np.stack(heat_maps(model, x, reference=reference)), scaled(cam), atol=1e-4)


class Colours(nn.Module):
    """Features: mean red, mean blue. No record of stages: the last map is found by running the network."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 2, 1, bias=False)
        self.map.weight.data[:] = torch.tensor([[1.0, 0, 0], [0, 0, 1]])[:, :, None, None]
        self.act = nn.ReLU(inplace=True)
        self.line = nn.Linear(2, 2, bias=False)
        self.line.weight.data[:] = torch.eye(2)
        self.pretrained_cfg = {"input_size": (3, 8, 4), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}

    def forward(self, x):
        return self.line(self.act(self.map(x)).mean((2, 3)))


def test_the_reference_says_what_is_looked_for(tmp_path):
    """A red upper half and a blue lower half: the red reference lights the one, the blue the other."""
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[:4, :, 0], pixels[4:, :, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    upper = np.repeat([[1.0], [0.0]], 4, axis=0) * np.ones((1, 4))
    for reference, expected in (([1.0, 0], upper), ([0.0, 1], 1 - upper), ([-1.0, -1], 0 * upper)):
        for image in (tmp_path / "a.png", Image.fromarray(pixels)):
            (heat,) = heat_maps(Colours(), [image], reference=reference)
            np.testing.assert_allclose(heat, expected, atol=1e-6)
    (named,) = heat_maps(Colours(), [tmp_path / "a.png"], reference=[1.0, 0], layer="map")
    np.testing.assert_allclose(named, upper, atol=1e-6)


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_vit2", "transreid_ssl_vit_small"])
def test_roll_out_multiplies_the_attention_of_all_blocks(name, images):
    torch.manual_seed(0)
    model = reidzoo.create_model(name, img_size=(64, 32)).eval()
    x = images(2, 64, 32)
    flow = None
    with torch.no_grad():
        tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
        for block in model.blocks:
            a, y = block.attn, block.norm1(tokens)
            batch, n, width = y.shape
            q, k, _ = a.qkv(y).reshape(batch, n, 3, a.num_heads, width // a.num_heads).permute(2, 0, 3, 1, 4)
            shares = (a.q_norm(q) @ a.k_norm(k).transpose(2, 3) / (width // a.num_heads) ** 0.5).softmax(3).mean(1)
            step = (shares + torch.eye(n)) / 2
            flow = step if flow is None else step @ flow
            tokens = block(tokens)
    special = model.num_prefix_tokens
    row = flow[:, 0] if model.global_pool == "token" else flow[:, special:].mean(1)
    heat = row[:, special:].numpy()
    heat = heat - heat.min(1, keepdims=True)
    found = heat_maps(model, x)
    assert found[0].shape[0] == 2 * found[0].shape[1]
    expected = (heat / heat.max(1, keepdims=True)).reshape(2, *found[0].shape)
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["ghostnet_0_5", "repvit_m0_9", "edgenext_small", "fastvit_s12", "volo_d1"])
def test_other_families(name, images):
    torch.manual_seed(0)
    first, second = heat_maps(reidzoo.create_model(name), images(2, 128, 64))
    assert first.shape[0] == 2 * first.shape[1] > 2
    assert first.max() == pytest.approx(1)
    assert first.min() >= 0
    assert not np.array_equal(first, second)


def test_the_model_is_as_before(images):
    model = reidzoo.create_model("timm/test_vit", head="bnneck", num_classes=4, img_size=(64, 32)).train()
    model.requires_grad_(False)
    with torch.no_grad():
        heat = heat_maps(model, images(1, 64, 32))
    assert heat[0].shape == (4, 2)
    assert model.training
    assert all(block.attn.fused_attn == timm.layers.use_fused_attn() for block in model.backbone.blocks)
    cnn = reidzoo.create_model("timm/test_resnet", head="bnneck", num_classes=4, img_size=(64, 32)).train()
    cnn.requires_grad_(False)
    with torch.no_grad():
        assert heat_maps(cnn, images(1, 64, 32))[0].max() <= 1
    for network in (model, cnn):
        assert all(not m._forward_hooks for m in network.modules())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_errors(images):
    model = Colours()
    with pytest.raises(ConfigError, match="no module 'stage9'"):
        heat_maps(model, images(1, 8, 4), layer="stage9")
    with pytest.raises(ConfigError, match="no feature map"):
        heat_maps(nn.Sequential(nn.Flatten(), nn.Linear(96, 2)), images(1, 8, 4))
    with pytest.raises(DataError, match="shape \\(3, 2\\) for 1 images"):
        heat_maps(model, images(1, 8, 4), reference=np.zeros((3, 2)))
    with pytest.raises(DataError, match="5 dimensions, the model's features 2"):
        heat_maps(model, images(1, 8, 4), reference=np.zeros((1, 5)))
    assert heat_maps(model, []) == []


@pytest.mark.parametrize(
    ("patches", "aspect", "grid"), [(128, 2, (16, 8)), (210, 2, (21, 10)), (64, 1, (8, 8)), (7, 6, (7, 1))]
)
def test_grid(patches, aspect, grid):
    assert _grid(patches, aspect) == grid


def test_overlay_is_bright_where_it_is_hot(tmp_path):
    image = Image.new("RGB", (40, 80), (90, 90, 90))
    heat = np.array([[0.0, 0.0], [1.0, 1.0]], np.float32)
    shown = np.asarray(overlay(image, heat)).astype(int).sum(2)
    assert shown.shape == (80, 40)
    assert shown[-10:].min() > shown[:10].max() + 200
    assert np.array_equal(np.asarray(overlay(image, heat, strength=0)), np.asarray(image))
    path = draw_heat_maps([image] * 5, [heat] * 5, tmp_path / "h.png", columns=2)
    with Image.open(path) as picture:
        assert picture.size == (2 * (80 + 16) + 8, 3 * 88 + 8)
