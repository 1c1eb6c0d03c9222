"""TransReID's other options for a ViT: vectors of the cameras (SIE), overlapping patches, positions for them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import reidzoo
from reidzoo.data import Records
from reidzoo.errors import CheckpointError, ConfigError
from reidzoo.models.vit import resample_positions, set_options
from reidzoo.weights import read_weights
from reidzoo.weights.official import fit_backbone

TINY = {"depth": 2, "embed_dim": 16, "num_heads": 2}
PLAIN, ICS = "transreid_ssl_vit_small", "vit_tiny"


def vit(name: str = PLAIN, **options: Any) -> Any:
    torch.manual_seed(0)
    return reidzoo.create_model(name, **{**TINY, **options}).eval()


def tokens_of(model: Any, *inputs: Tensor) -> Tensor:
    """What the first block gets."""
    seen: list[Tensor] = []
    with model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())), torch.no_grad():
        model(*inputs)
    return seen[0]


# Side information


@pytest.mark.parametrize("name", [PLAIN, ICS, "pass_vit_small", "timm/vit_tiny_patch16_224"])
def test_all_tokens_of_an_image_get_the_vector_of_its_camera(name: str) -> None:
    plain, model = vit(name, img_size=(64, 32)), vit(name, cameras=[3, 7, 12], sie_weight=2.5, img_size=(64, 32))
    assert model.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["sie_embed"]
    assert model.sie_embed.shape == (3, 1, 16)
    x, camids = torch.randn(5, 3, 64, 32), [7, 3, 12, 7, 3]
    found = tokens_of(model, x, torch.tensor(camids)) - tokens_of(plain, x)
    vectors = model.sie_embed.detach().numpy()[:, 0]
    for image, camera in enumerate(camids):
        for token in found[image].numpy():
            np.testing.assert_allclose(token, 2.5 * vectors[[3, 7, 12].index(camera)], atol=1e-6)


def test_unknown_cameras_get_the_mean() -> None:
    model, x = vit(cameras=4), torch.randn(3, 3, 64, 32)
    known = tokens_of(model, x, torch.tensor([0, 1, 3]))
    table = 3 * model.sie_embed.detach()
    bare = known - table[[0, 1, 3]]
    torch.testing.assert_close(tokens_of(model, x, torch.tensor([4, -1, 99])) - bare, table.mean(0).expand_as(bare))
    torch.testing.assert_close(tokens_of(model, x) - bare, table.mean(0).expand_as(bare))
    # One camera is enough, where the reference fails.
    one = vit(cameras=1)
    torch.testing.assert_close(one(x, torch.zeros(3, dtype=torch.long)), one(x))


def test_only_the_cameras_of_the_batch_learn() -> None:
    model = vit(cameras=4).train()
    model(torch.randn(2, 3, 64, 32), torch.tensor([2, 0])).square().sum().backward()
    assert model.sie_embed.grad.abs().sum((1, 2)).gt(0).tolist() == [True, False, True, False]


def test_a_network_without_side_information_is_as_before() -> None:
    model, x = vit(), torch.randn(2, 3, 64, 32)
    assert not model.takes_cameras
    assert "sie_embed" not in model.state_dict()
    assert torch.equal(model(x, torch.tensor([0, 1])), model(x))


def test_vectors_of_the_same_cameras_stay() -> None:
    model = vit(cameras=[1, 2])
    before = model.sie_embed
    model.set_cameras([2, 1], weight=1.0)
    assert model.sie_embed is before
    model.set_cameras([2, 1, 5])
    assert model.sie_embed.shape[0] == 3
    with pytest.raises(ConfigError, match="numbers from 0"):
        model.set_cameras([-1, 2])
    with pytest.raises(ConfigError, match="'resnet18' is no ViT"):
        set_options(reidzoo.create_model("resnet18"), cameras=2)


def test_a_file_knows_the_cameras(tmp_path: Path) -> None:
    model = reidzoo.create_model(ICS, cameras=[2, 9], stride=12, head="bnneck", num_classes=3, **TINY).eval()
    reidzoo.weights.save_model(model, tmp_path)
    again = reidzoo.create_model(f"local-dir:{tmp_path}").eval()
    x, camids = torch.randn(2, 3, 64, 32), torch.tensor([9, 2])
    assert torch.equal(again(x, camids), model(x, camids))
    assert not torch.allclose(again(x, camids.flip(0)), model(x, camids))


def test_evaluation_tells_the_network_the_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    image = tmp_path / "one.png"
    Image.fromarray(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8)).save(image)
    model = reidzoo.create_model(PLAIN, cameras=[1, 4], head="bnneck", num_classes=3, **TINY).eval()
    torch.nn.init.normal_(model.backbone.sie_embed)
    how: dict[str, Any] = {"num_workers": 0, "batch_size": 2, "flip": False, "img_size": (64, 32)}
    cameras = [1, 4, 1]
    found = reidzoo.extract_features(model, Records.from_columns([image] * 3, [0, 0, 0], cameras), **how)
    x = torch.stack([reidzoo.create_transform(model, img_size=(64, 32))(Image.open(image))] * 3)
    with torch.no_grad():
        expected = model(x, torch.tensor(cameras))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-2
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "reidzoo"):
        new = reidzoo.extract_features(model, Records.from_columns([image] * 3, [0, 0, 0], [1, 5, -1]), **how)
    assert "2 of 3 images are from cameras without a vector in the network (-1, 5; it knows [1, 4])" in caplog.text
    np.testing.assert_allclose(new[1], reidzoo.extract_features(model, [image], **how)[0], atol=1e-5)


# Overlapping patches


def test_numbers_of_patches() -> None:
    expected = {16: (16, 8), 14: (18, 9), 12: (21, 10), 11: (22, 11)}
    for stride, grid in expected.items():
        model = vit(stride=stride)
        assert model.patch_embed.grid_size == model.patch_embed.dynamic_feat_size((256, 128)) == grid
        assert model.pos_embed.shape == (1, 1 + grid[0] * grid[1], 16)
    assert vit(stride=12).forward_features(torch.randn(1, 3, 256, 128)).shape == (1, 211, 16)
    assert vit(ICS, stride=12).forward_features(torch.randn(1, 3, 256, 128)).shape == (1, 211, 16)
    assert vit(ICS).forward_features(torch.randn(1, 3, 256, 128)).shape == (1, 129, 16)
    maps = reidzoo.create_model(ICS, stride=12, features_only=True, out_indices=[1], **TINY)
    assert maps(torch.randn(1, 3, 256, 128))[0].shape == (1, 16, 21, 10)
    assert maps.feature_info.reduction() == [12]


def test_patches_overlap() -> None:
    model, x = vit(stride=10), torch.randn(1, 3, 48, 32)
    weight, bias = model.patch_embed.proj.weight.detach(), model.patch_embed.proj.bias.detach()
    found = model.patch_embed(x).detach()
    assert found.shape == (1, 4, 2, 16)
    for row in range(4):
        for column in range(2):
            patch = x[0, :, 10 * row : 10 * row + 16, 10 * column : 10 * column + 16]
            torch.testing.assert_close(found[0, row, column], (weight * patch).sum((1, 2, 3)) + bias)


def test_strides_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="stride is 17, expected 1 to 16"):
        vit(stride=17)
    with pytest.raises(ConfigError, match="stride is 11, expected an even number from 2 to 16"):
        vit(ICS, stride=11)


# Positions


def bilinear(grid: np.ndarray, new: tuple[int, int]) -> np.ndarray:
    """(h, w, D) -> (*new, D), point by point: the nearest two rows and columns of the half-pixel grid."""
    old = grid.shape[:2]
    out = np.empty((*new, grid.shape[2]))
    for i in range(new[0]):
        for j in range(new[1]):
            at = [max((k + 0.5) * o / n - 0.5, 0) for k, o, n in zip((i, j), old, new, strict=True)]
            (y, v), (x, u) = ((int(a), a - int(a)) for a in at)
            below, right = min(y + 1, old[0] - 1), min(x + 1, old[1] - 1)
            top = (1 - u) * grid[y, x] + u * grid[y, right]
            out[i, j] = (1 - v) * top + v * ((1 - u) * grid[below, x] + u * grid[below, right])
    return out


def test_positions_are_resampled_bilinearly_but_for_the_class_token() -> None:
    table = torch.randn(1, 2 + 8 * 4, 5)
    found = resample_positions(table, (8, 4), (11, 6))
    assert torch.equal(found[:, :2], table[:, :2])
    expected = bilinear(table[0, 2:].double().numpy().reshape(8, 4, 5), (11, 6)).reshape(66, 5)
    np.testing.assert_allclose(found[0, 2:].numpy(), expected, atol=1e-5)
    assert resample_positions(table, (8, 4), (8, 4)) is table


@pytest.mark.parametrize("how", ["stride", "size"])
def test_the_network_keeps_positions_for_its_own_grid(how: str, tmp_path: Path) -> None:
    model, changed = vit(), vit()
    options: dict[str, Any] = {"stride": 12} if how == "stride" else {"pos_size": (384, 128)}
    if how == "stride":
        changed.set_grid(stride=12)
    else:
        changed.set_input_size((384, 128))
    grid, old = (21, 10) if how == "stride" else (24, 8), model.pos_embed.detach()
    assert torch.equal(changed.pos_embed, resample_positions(old, (16, 8), grid))
    # Released files come into a network for another grid by the same way; a file of such a network as it is.
    reidzoo.weights.save_model(model, tmp_path / "released")
    reidzoo.weights.save_model(changed, tmp_path / "moved")
    assert torch.equal(vit(weights=tmp_path / "released", **options).pos_embed, changed.pos_embed)
    assert torch.equal(reidzoo.create_model(f"local-dir:{tmp_path / 'moved'}").pos_embed, changed.pos_embed)
    assert torch.equal(vit(weights=tmp_path / "moved", **options).pos_embed, changed.pos_embed)
    x = torch.randn(1, 3, 384, 128)
    assert torch.equal(reidzoo.create_model(f"local-dir:{tmp_path / 'moved'}").eval()(x), changed(x))


def test_size_and_stride_change_in_one_step() -> None:
    """TransReID goes from ImageNet's grid to its own at once: two steps would blur twice."""
    model = vit("timm/vit_tiny_patch16_224", img_size=(224, 224))
    before = model.pos_embed.detach()
    assert torch.equal(
        set_options(model, stride=12, pos_size=(256, 128)).pos_embed, resample_positions(before, (14, 14), (21, 10))
    )
    assert model.reidzoo_kwargs == {**TINY, "stride": 12, "pos_size": (256, 128)}


@pytest.mark.parametrize("grid", [(14, 14), (21, 10), (24, 8), (22, 11)])
def test_positions_of_other_peoples_files(grid: tuple[int, int], tmp_path: Path) -> None:
    model = vit()
    table = torch.randn(1, 1 + grid[0] * grid[1], 16)
    torch.save({**model.state_dict(), "pos_embed": table}, tmp_path / "theirs.pth")
    found = vit(weights=tmp_path / "theirs.pth").pos_embed[0, 1:].detach().reshape(16, 8, 16)
    expected = F.interpolate(table[:, 1:].reshape(1, *grid, 16).permute(0, 3, 1, 2), (16, 8), mode="bilinear")
    torch.testing.assert_close(found, expected[0].permute(1, 2, 0))


def test_positions_of_an_unknown_grid_are_refused(tmp_path: Path) -> None:
    torch.save({**vit().state_dict(), "pos_embed": torch.zeros(1, 1 + 7 * 13, 16)}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 92, 16\) for \(1, 129, 16\)"):
        vit(weights=tmp_path / "theirs.pth")


def test_the_store_takes_no_resampled_positions(tmp_path: Path) -> None:
    """What is imported is the file, bit for bit; so one for another grid is none of the released ones."""
    with torch.device("meta"):
        state = {k: torch.zeros_like(t, device="cpu") for k, t in reidzoo.create_model(PLAIN).state_dict().items()}
    torch.save({**state, "pos_embed": torch.zeros(1, 197, 384)}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 197, 384\) for \(1, 129, 384\)"):
        fit_backbone(reidzoo.create_model(PLAIN), read_weights(tmp_path / "theirs.pth"), tmp_path / "theirs.pth")
