from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import reidzoo
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, CorruptImageError, DataError
from reidzoo.eval import create_transform, extract_features


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=0)


def by_hand(model, crops, flip):
    """One image at a time, no batches, no workers."""
    transform = create_transform(model, img_size=(64, 32))
    model.eval()
    rows = []
    with torch.no_grad():
        for path in crops.path:
            x = transform(Image.open(path))[None]
            f = model(x)[0].double()
            if flip:
                f = (f + model(torch.flip(x, [3]))[0].double()) / 2
            rows.append(f.numpy())
    model.train()
    return np.array(rows)


@pytest.mark.parametrize("flip", [False, True])
def test_equals_one_image_at_a_time(network, crops, flip):
    found = extract_features(network, crops, batch_size=10, num_workers=0, flip=flip, img_size=(64, 32))
    assert found.shape == (64, 512)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(network, crops, flip), atol=1e-5)


def test_flip_makes_mirror_images_equal(model, crops):
    pictures = [Image.open(path) for path in crops.path[:4]]
    mirrored = [p.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for p in pictures]
    np.testing.assert_allclose(extract_features(model, pictures), extract_features(model, mirrored), atol=1e-6)
    assert not np.allclose(
        extract_features(model, pictures, flip=False), extract_features(model, mirrored, flip=False), atol=1e-6
    )


def test_scales_start_from_the_image_itself(network, crops):
    """Several scales are the mean of each alone, whatever their order; compounding them would not be."""
    x = torch.stack([create_transform(network, img_size=(64, 32))(Image.open(p)) for p in crops.path[:6]])
    network.eval()
    with torch.no_grad():
        sizes = ((64, 32), (96, 48), (48, 32))  # 0.75 x 32 = 24 is rounded to a multiple of 16
        views = [x] + [F.interpolate(x, size, mode="bicubic", antialias=True) for size in sizes[1:]]
        expected = torch.stack([network(v) + network(v.flip(3)) for v in views]).mean(0) / 2
    for scales in ((1, 1.5, 0.75), (0.75, 1.5, 1)):
        found = extract_features(network, x, scales=scales)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_parts_are_normalised_when_their_views_are_added_up():
    """PCB as its release tests: views are summed, then each of P parts is divided by its norm and the root of P."""
    torch.manual_seed(0)
    model = reidzoo.create_model("timm/test_resnet", img_size=(96, 32), head="pcb", num_classes=3).eval()
    x = torch.randn(3, 3, 96, 32)
    summed = np.zeros((3, 96, 6))
    with torch.no_grad():
        for size in ((96, 32), (192, 64)):
            scaled = x if size == (96, 32) else F.interpolate(x, size, mode="bicubic", antialias=True)
            for view in (scaled, scaled.flip(3)):
                y = model.backbone.forward_features(view).double().numpy()
                for part, rows in enumerate(np.split(y, 6, axis=2)):
                    summed[:, :, part] += rows.mean((2, 3))
        expected = summed / (np.linalg.norm(summed, axis=1, keepdims=True) * 6**0.5)
        found = extract_features(model, x, scales=(1, 2), flip=True)
        np.testing.assert_allclose(found, expected.reshape(3, -1), atol=1e-6)
        plain = model(x)
        np.testing.assert_array_equal(extract_features(model, x, flip=False), plain)
        np.testing.assert_allclose(plain.norm(dim=1), 1, atol=1e-5)
        each = (plain + model(x.flip(3))).numpy() / 2
    assert np.abs(extract_features(model, x, flip=True) - each).max() > 1e-4  # not the mean of normalised views


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_precision(network, crops, precision):
    exact = extract_features(network, crops, num_workers=0, img_size=(64, 32))
    found = extract_features(network, crops, num_workers=0, img_size=(64, 32), precision=precision, device="cpu")
    assert found.dtype == np.float32
    if precision == "auto":  # on a CPU
        np.testing.assert_array_equal(found, exact)
    else:
        assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_every_kind_of_images_gives_the_same_rows(model, crops):
    expected = extract_features(model, crops, num_workers=0)
    pictures = [Image.open(path).convert("RGB") for path in crops.path]
    arrays = np.stack([np.asarray(p) for p in pictures])
    tensor = torch.stack([create_transform(model)(p) for p in pictures])
    for images in (list(crops.path), [Path(p) for p in crops.path], pictures, arrays, list(arrays), tensor):
        np.testing.assert_array_equal(extract_features(model, images, batch_size=7, num_workers=0), expected)


def test_workers_change_nothing(model, crops):
    alone = extract_features(model, crops, batch_size=9, num_workers=0)
    np.testing.assert_array_equal(extract_features(model, crops, batch_size=9, num_workers=2), alone)


def test_own_transform(model, crops):
    constant = extract_features(model, crops, num_workers=0, transform=lambda image: torch.zeros(3, 16, 8))
    np.testing.assert_array_equal(constant, 0)


def test_modes_are_restored(network, crops):
    network.train()
    network.layer4.eval()  # a frozen stage
    before = [m.training for m in network.modules()]
    statistics = network.bn1.running_mean.clone()
    extract_features(network, torch.randn(4, 3, 64, 32))
    assert [m.training for m in network.modules()] == before
    assert torch.equal(network.bn1.running_mean, statistics)
    network.train()


def test_modes_are_restored_after_an_error(model, crops):
    model.train()
    with pytest.raises(DataError):
        extract_features(model, torch.full((2, 3, 64, 32), torch.nan))
    assert model.training


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_is_named(model, crops, tmp_path, workers):
    whole = Path(crops.path[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    paths = [*crops.path[:3], str(tmp_path / "cut.png")]
    with pytest.raises(CorruptImageError, match=r"cut\.png"):
        extract_features(model, paths, num_workers=workers)


def test_features_that_are_not_finite_name_the_image(crops):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.log(x.mean((2, 3)) * 0 - 1)

    records = Records.from_columns(crops.path[:3], [1, 2, 3], [0, 0, 0])
    with pytest.raises(DataError, match=r"image 0 \(.*00.png\)"):
        extract_features(Broken(), records, num_workers=0, transform=lambda image: torch.ones(3, 4, 4))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (torch.zeros(2, 64, 32, 3, dtype=torch.uint8), "expected normalised floats"),
        (np.zeros((2, 64, 32), np.uint8), r"uint8 array of shape \(64, 32\)"),
        ([object()], "An image is object"),
    ],
)
def test_bad_images(model, images, message):
    with pytest.raises(DataError, match=message):
        extract_features(model, images)


def test_a_model_that_gives_no_vectors(crops):
    with pytest.raises(ConfigError, match=r"returned \(2, 3, 8, 4\) for 2 images"):
        extract_features(nn.Identity(), torch.zeros(2, 3, 8, 4))
    with pytest.raises(ConfigError, match="preprocessing is unknown"):
        extract_features(nn.Flatten(), crops)
    with pytest.raises(ConfigError, match="batch_size"):
        extract_features(nn.Flatten(), crops, batch_size=0)
    with pytest.raises(ConfigError, match=r"scale 1.1 leaves images of 16x16 as they are"):
        extract_features(nn.Flatten(), torch.zeros(2, 3, 16, 16), scales=(1.1,))
    with pytest.raises(ConfigError, match=r"precision='fp15'.*Did you mean 'fp16'"):
        extract_features(nn.Flatten(), torch.zeros(2, 3, 16, 16), precision="fp15")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(network, crops):
    cpu = extract_features(network, crops, device="cpu", num_workers=0, img_size=(64, 32))
    gpu = extract_features(network, crops, device="cuda", num_workers=0, img_size=(64, 32))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-2, atol=1e-3)
    network.cpu()
