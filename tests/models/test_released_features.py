"""The backbones of the other releases: their features against the text of their definitions."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.models._manipulate import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.models import from_official, to_official
from reidzoo.weights import save_model


def on_meta(name, **options):
    with torch.device("meta"):
        return reidzoo.create_model(name, **options)


def filled(name, fill, **options):
    """The backbone with synthetic values under the official names, and these values."""
    model = reidzoo.create_model(name, **options).eval()
    state = {
        key: fill(key, tuple(t.shape)) if t.is_floating_point() else t.clone()
        for key, t in to_official(model.state_dict(), model).items()
    }
    model.load_state_dict(from_official(state, model))
    return model, state


# --- TransReID-SSL and LUPerson


def test_plain_vit_is_timms_at_the_stored_grid(fill, images):
    model, state = filled("transreid_ssl_vit_small", fill)
    reference = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=(256, 128)).eval()
    reference.load_state_dict(state)
    with torch.inference_mode():
        torch.testing.assert_close(model(images(2, 256, 128)), reference(images(2, 256, 128)), rtol=0, atol=1e-5)
        # Elsewhere timm resizes by size and with antialiasing, the release by (size + 0.1) / old and without.
        reference.set_input_size((128, 64))
        assert (model(images(2, 128, 64)) - reference(images(2, 128, 64))).abs().max() > 0.01


def test_very_old_patch_projections_are_matrices():
    key, matrix = "patch_embed.proj.weight", torch.rand(384, 768)
    for name in ("transreid_ssl_vit_small", "pass_vit_small"):
        mapped = from_official({key: matrix}, on_meta(name))
        assert torch.equal(mapped[key], matrix.view(384, 3, 16, 16))


def test_ics_is_the_vit_of_cion(fill, images):
    model, state = filled("transreid_ssl_vit_small_ics", fill)
    reference = reidzoo.create_model("vit_small").eval()
    reference.load_state_dict(state)
    with torch.inference_mode():
        assert torch.equal(model(images(1, 192, 96)), reference(images(1, 192, 96)))


@pytest.mark.parametrize("name", reidzoo.list_models("luperson*"))
def test_luperson_resnets_keep_resolution_in_the_last_stage(name):
    model = on_meta(name)
    assert model.forward_features(torch.rand(1, 3, 256, 128, device="meta")).shape == (1, 2048, 16, 8)
    assert all(m.dilation == (1, 1) for m in model.modules() if isinstance(m, nn.Conv2d))


# --- PASS


@pytest.mark.parametrize("size", [(256, 128), (128, 64)])
def test_pass_tokens_positions_and_fusion(size, fill, images):
    """Written out from the released tensors; only the blocks are timm's."""
    model, state = filled("pass_vit_small", fill)
    x = images(2, *size)
    blocks = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    blocks.load_state_dict({k: t for k, t in state.items() if k.startswith(("blocks.", "norm."))}, strict=False)
    patches = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    grid = state["pos_embed"].view(1, 16, 8, 384).permute(0, 3, 1, 2)
    if size != (256, 128):
        scale = [(new / 16 + 0.1) / old for new, old in zip(size, (16, 8), strict=True)]
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    tokens = [state["cls_token"] + state["cls_pos"]]
    tokens += [state[f"part_token{i}"] + state[f"part{i}_pos"] for i in (1, 2, 3)]
    tokens = [t.expand(2, 1, 384) for t in tokens] + [(patches + grid).flatten(2).transpose(1, 2)]
    with torch.inference_mode():
        expected = blocks.norm(blocks.blocks(torch.cat(tokens, dim=1)))
        torch.testing.assert_close(model.forward_features(x), expected, rtol=0, atol=1e-5)
        whole, parts = expected[:, 0], (expected[:, 1] + expected[:, 2] + expected[:, 3]) / 3
        torch.testing.assert_close(model(x), torch.cat([whole, parts], dim=1), rtol=0, atol=1e-5)
        model.feat_fusion = "mean"
        torch.testing.assert_close(model(x), (whole + parts) / 2, rtol=0, atol=1e-5)


def test_pass_is_a_timm_model():
    model = reidzoo.create_model("pass_vit_small").eval()
    assert isinstance(model, VisionTransformer)
    with torch.inference_mode():
        final, maps = model.forward_intermediates(torch.rand(1, 3, 128, 64), indices=2, return_prefix_tokens=True)
    assert final.shape == (1, 4 + 32, 384)
    assert [(m.shape, prefix.shape) for m, prefix in maps] == [((1, 384, 8, 4), (1, 4, 384))] * 2
    tokens = {"cls_token", "cls_pos", "pos_embed", *(f"part_token{i}" for i in "123"), *(f"part{i}_pos" for i in "123")}
    assert tokens <= set(model.no_weight_decay())
    groups = group_parameters(model, model.group_matcher())
    assert {*tokens, "patch_embed.proj.weight", "patch_embed.proj.bias"} == set(groups[0])
    model.reset_classifier(7)
    assert model(torch.rand(1, 3, 128, 64)).shape == (1, 7)
    model.reset_classifier(0, "")
    assert model(torch.rand(1, 3, 128, 64)).shape == (1, 36, 384)


def test_options_of_pass(tmp_path):
    model = reidzoo.create_model("pass_vit_small", feat_fusion="mean").eval()
    assert (model.embed_dim, model(torch.rand(1, 3, 64, 32)).shape) == (384, (1, 384))
    again = reidzoo.create_model(f"local-dir:{save_model(model, tmp_path)}").eval()
    x = torch.rand(1, 3, 64, 32)
    assert torch.equal(again(x), model(x))
    with pytest.raises(ConfigError, match=r"'sum' is unknown\. Known: cat, mean"):
        reidzoo.create_model("pass_vit_small", feat_fusion="sum")
    with pytest.raises(ConfigError, match="create_model"):
        model.reset_classifier(0, "avg")
    average = on_meta("pass_vit_small", global_pool="avg")
    assert (average.embed_dim, average(torch.rand(1, 3, 64, 32, device="meta")).shape) == (384, (1, 384))


# --- SOLIDER


def same_window(height, width, shift, window=7):
    """(N, N): may token i of a padded map attend to token j? Same window after the shift, same side of the seam."""
    ids = []
    for size in (height, width):
        rolled = (torch.arange(size) - shift) % size
        seam = (
            (rolled >= size - window).int() + (rolled >= size - shift).int()
            if shift
            else torch.zeros(size, dtype=torch.int)
        )
        ids.append(rolled // window * 3 + seam)
    cells = (ids[0][:, None] * 1000 + ids[1][None]).flatten()
    return cells[:, None] == cells[None], [(torch.arange(s) - shift) % s % window for s in (height, width)]


def window_attention(state, at, x, heads, shift):
    """Full attention over the padded map with an explicit mask: ``(h, w, C)`` -> the same."""
    height, width, dim = x.shape
    x = F.pad(x, (0, 0, 0, -width % 7, 0, -height % 7))
    padded = x.shape[:2]
    allowed, (rows, cols) = same_window(*padded, shift)
    rows, cols = (t.flatten() for t in torch.meshgrid(rows, cols, indexing="ij"))
    offset = (rows[:, None] - rows[None] + 6) * 13 + cols[:, None] - cols[None] + 6
    bias = state[at + "relative_position_bias_table"][offset].permute(2, 0, 1)
    qkv = F.linear(x.flatten(0, 1), state[at + "qkv.weight"], state[at + "qkv.bias"])
    q, k, v = qkv.view(-1, 3, heads, dim // heads).permute(1, 2, 0, 3)
    scores = q @ k.transpose(1, 2) / math.sqrt(dim // heads) + bias
    out = (scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v).transpose(0, 1).reshape(-1, dim)
    out = F.linear(out, state[at + "proj.weight"], state[at + "proj.bias"])
    return out.view(*padded, dim)[:height, :width]


def solider(state, image, weight):
    """The whole network of SOLIDER Swin-T on one image, from its released tensors: normalised maps of the stages."""

    def linear(key, x):
        return F.linear(x, state[f"{key}.weight"], state.get(f"{key}.bias"))

    def norm(key, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"])

    projection = "patch_embed.projection"
    x = F.conv2d(image, state[f"{projection}.weight"], state[f"{projection}.bias"], stride=4)[0].permute(1, 2, 0)
    x, maps = norm("patch_embed.norm", x), []
    for i, depth in enumerate((2, 2, 6, 2)):
        for j in range(depth):
            at = f"stages.{i}.blocks.{j}."
            x = x + window_attention(state, at + "attn.w_msa.", norm(at + "norm1", x), 3 << i, 3 * (j % 2))
            x = x + linear(at + "ffn.layers.1", F.gelu(linear(at + "ffn.layers.0.0", norm(at + "norm2", x))))
        maps.append(norm(f"norm{i}", x))
        if i < 3:
            height, width = x.shape[:2]
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2)).permute(2, 0, 1)[None]
            columns = F.unfold(x, 2, stride=2)[0].T  # channel by channel: its 2x2 neighbours, row by row
            x = linear(f"stages.{i}.downsample.reduction", norm(f"stages.{i}.downsample.norm", columns))
            x = x.view((height + 1) // 2, (width + 1) // 2, -1)
            if weight >= 0:
                mixture = torch.tensor([weight, 1 - weight])
                x = x * F.softplus(linear(f"semantic_embed_w.{i}", mixture)) + linear(f"semantic_embed_b.{i}", mixture)
    return maps


@pytest.fixture(scope="module")
def solider_tiny(fill):
    return filled("solider_swin_tiny", fill)


@pytest.mark.parametrize(("size", "weight"), [((128, 64), 0.2), ((96, 48), 0.9), ((72, 40), -1.0)])
def test_solider_forward_written_out(size, weight, solider_tiny, images):
    """At 72x40 the maps are odd as well: merging pads too."""
    model, state = solider_tiny
    x = images(1, *size)
    model.set_semantic_weight(weight)
    with torch.inference_mode():
        maps = solider(state, x, weight)
        torch.testing.assert_close(model(x)[0], maps[-1].mean((0, 1)), rtol=0, atol=1e-5)
        final, ours = model.forward_intermediates(x, norm=True)
        for expected, fmap in zip(maps, ours, strict=True):
            torch.testing.assert_close(fmap[0].permute(1, 2, 0), expected, rtol=0, atol=2e-5)
        torch.testing.assert_close(final[0], maps[-1], rtol=0, atol=2e-5)
        [second] = model.forward_intermediates(x, indices=[1], norm=True, stop_early=True, intermediates_only=True)
        assert torch.equal(second, ours[1])
        if weight >= 0:
            model.set_semantic_weight(-1)
            assert (model(x)[0] - maps[-1].mean((0, 1))).abs().max() > 0.01


def test_neighbours_of_a_merging_are_reordered_as_described():
    """Official Swin -> mmcv: the four groups in the order [0, 2, 1, 3], then interleaved with the channels."""
    model = on_meta("solider_swin_tiny")
    ours = {
        "layers.1.downsample.norm.bias": torch.arange(384.0),
        "layers.1.downsample.reduction.weight": torch.arange(192 * 384.0).view(192, 384),
    }
    released = to_official(ours, model)
    for key, t in ours.items():
        groups = t.view(-1, 4, 96)[:, [0, 2, 1, 3]]
        expected = groups.transpose(1, 2).reshape(t.shape)
        assert torch.equal(released[key.replace("layers.1", "stages.0")], expected)


def test_options_of_solider(solider_tiny, tmp_path):
    model, _ = solider_tiny
    assert [stage.downsample.semantic_weight for stage in reidzoo.create_model("solider_swin_tiny").layers[1:]] == [
        0.2
    ] * 3
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert {key.split(".")[0 if key.startswith("norm") else -2] for key in frozen} == {
        *("norm0", "norm1", "norm2"),
        *("semantic_embed_w", "semantic_embed_b"),
    }
    half = reidzoo.create_model("solider_swin_tiny", semantic_weight=0.5).eval()
    again = reidzoo.create_model(f"local-dir:{save_model(half, tmp_path)}").eval()
    x = torch.rand(1, 3, 64, 32)
    assert torch.equal(again(x), half(x))
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}
