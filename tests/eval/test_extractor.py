from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidzoo import Extractor
from reidzoo.errors import ConfigError, CorruptImageError, DataError, DataNotFoundError
from reidzoo.eval import create_transform, extract_features
from reidzoo.models import create_model
from reidzoo.weights import save_model


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("timm/test_resnet", img_size=(64, 32))


def one_by_one(model, pictures):
    """The definition: each picture alone through the transform and the network, divided by its length."""
    transform = create_transform(model)
    model.eval()
    with torch.no_grad():
        rows = [model(transform(picture)[None])[0].double().numpy() for picture in pictures]
    return np.array([row / np.linalg.norm(row) for row in rows])


@pytest.fixture(scope="module")
def pictures(crops):
    return [Image.open(path).convert("RGB") for path in crops.path[:10]]


def test_equals_the_definition_in_every_kind_of_input(network, crops, pictures):
    expected = one_by_one(network, pictures)
    extract = Extractor(network, batch_size=4)
    arrays = [np.asarray(p) for p in pictures]
    paths = list(crops.path[:10])
    for images in (paths, [Path(p) for p in paths], pictures, arrays, np.stack(arrays), iter(arrays)):
        found = extract(images)
        assert found.dtype == np.float32
        assert found.shape == (10, extract.dim)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(Extractor(network, bgr=True)(np.stack(arrays)[..., ::-1]), expected, atol=1e-5)
    np.testing.assert_allclose(Extractor(network, bgr=True)(paths), expected, atol=1e-5)
    assert np.abs(extract(np.stack(arrays)[..., ::-1]) - expected).max() > 0.01, "the order of colours matters"
    for one in (paths[0], pictures[0], arrays[0]):
        np.testing.assert_allclose(extract(one), expected[:1], atol=1e-5)


def test_flip_and_own_transform_are_those_of_extract_features(network, crops):
    for options in (
        {"flip": True},
        {"flip": False, "scales": (1, 1.5)},
        {"flip": False, "transform": lambda image: create_transform(network)(image.rotate(180))},
    ):
        expected = extract_features(network, crops, num_workers=0, **options)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(Extractor(network, **options)(crops.path), expected, atol=1e-6)


def test_boxes_are_cut_from_the_frame(network):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (120, 200, 3), dtype=np.uint8)
    boxes = [[10, 20, 40.5, 110], [-7, -3, 31.2, 60], [150, 70, 260, 500], [5, 5, 5.5, 5.5]]
    cut = [frame[20:110, 10:41], frame[0:60, 0:32], frame[70:120, 150:200], frame[5:6, 5:6]]
    expected = one_by_one(network, map(Image.fromarray, cut))
    extract = Extractor(network, batch_size=3)
    for image in (frame, Image.fromarray(frame)):
        for given in (boxes, np.array(boxes), torch.tensor(boxes)):
            np.testing.assert_allclose(extract(image, given), expected, atol=1e-5)
    bgr = Extractor(network, bgr=True)
    np.testing.assert_allclose(bgr(np.ascontiguousarray(frame[..., ::-1]), boxes), expected, atol=1e-5)


def test_a_frame_may_be_a_file_and_without_persons(network, tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "frame.png")
    extract = Extractor(network)
    np.testing.assert_array_equal(extract(tmp_path / "frame.png", [[1, 2, 30, 40]]), extract(frame, [[1, 2, 30, 40]]))
    for empty in (extract(frame, []), extract(frame, np.empty((0, 4))), extract([])):
        assert empty.shape == (0, extract.dim)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 10, 20, 20], [70, 10, 90, 20]], r"Box 1 \(70, 10, 90, 20\) holds no pixel.*60 wide and 50 high \(1 of"),
        ([[10, 10, 5, 20]], "left, top, right, bottom"),
        ([[np.nan, 0, 5, 20]], "holds no pixel"),
        ([1, 2, 3, 4], r"shape \(4,\)"),
        ([[1, 2, 3]], r"shape \(1, 3\)"),
    ],
)
def test_bad_boxes(network, boxes, message):
    with pytest.raises(DataError, match=message):
        Extractor(network)(np.zeros((50, 60, 3), np.uint8), boxes)


def test_bad_pictures(network, crops, tmp_path):
    extract = Extractor(network, batch_size=2)
    (tmp_path / "cut.png").write_bytes(Path(crops.path[0]).read_bytes()[:100])
    with pytest.raises(CorruptImageError, match=r"cut\.png"):
        extract([*crops.path[:3], tmp_path / "cut.png"])
    with pytest.raises(DataNotFoundError, match=r"gone\.png"):
        extract(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"float64 array of shape \(4, 4, 3\)"):
        extract(np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match=r"shape \(1, 4\)"):
        extract(np.zeros((4, 4), np.uint8), [[0, 0, 2, 2]])
    assert extract(crops.path[:1]).shape == (1, extract.dim), "it goes on after an error"


def test_bad_settings(network):
    for options in ({"batch_size": 0}, {"scales": ()}, {"scales": (0,)}, {"scales": (1.1,)}, {"precision": "fp8"}):
        with pytest.raises(ConfigError):
            Extractor(network, **options)
    with pytest.raises(ConfigError, match=r"expected a \(1, D\) tensor"):
        Extractor(torch.nn.Identity(), transform=lambda image: torch.zeros(3, 4, 4))
    broken = copy.deepcopy(network)
    torch.nn.init.constant_(next(broken.parameters()), torch.nan)
    with pytest.raises(DataError, match=r"2 features contain NaN or infinity \(first images: \[0, 1\]"):
        Extractor(broken)(np.zeros((2, 8, 8, 3), np.uint8))


def test_many_threads_get_what_one_gets(network, crops):
    extract = Extractor(network, batch_size=3, threads=2)
    expected = extract(crops.path)
    starts = list(range(0, 56, 7))
    with ThreadPoolExecutor(8) as pool:
        for start, found in zip(starts, pool.map(lambda s: extract(crops.path[s : s + 7]), starts), strict=True):
            np.testing.assert_allclose(found, expected[start : start + 7], atol=1e-6)


def test_a_model_that_went_on_training_is_evaluated(network, crops):
    model = copy.deepcopy(network)
    extract = Extractor(model)
    before = extract(crops.path[:4])
    model.train()
    np.testing.assert_array_equal(extract(crops.path[:4]), before)


def test_a_run_folder(network, crops, tmp_path):
    save_model(network, tmp_path / "model.safetensors")
    np.testing.assert_allclose(Extractor(tmp_path)(crops.path), Extractor(network)(crops.path), atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(network, crops):
    cpu = Extractor(copy.deepcopy(network), device="cpu")(crops.path)
    np.testing.assert_allclose(Extractor(copy.deepcopy(network), device="cuda")(crops.path), cpu, atol=1e-3)
    assert (Extractor(copy.deepcopy(network), precision="auto")(crops.path) * cpu).sum(1).min() > 0.99
