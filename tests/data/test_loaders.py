from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidzoo.data import Records
from reidzoo.data.loaders import EpochBatches, ImageDataset, SampleKey, build_loader, check_images, read_image
from reidzoo.data.samplers import PKSampler
from reidzoo.data.transforms import EvalTransform, MultiCrop, TrainTransform
from reidzoo.errors import ConfigError, CorruptImageError, DataNotFoundError

WriteImage = Callable[..., Path]


@pytest.fixture
def records(tmp_path: Path, write_image: WriteImage) -> Records:
    paths = [write_image(tmp_path / f"{i:02d}.jpg") for i in range(24)]
    return Records.from_columns(paths, np.arange(24) // 4, np.zeros(24))


def batches(records: Records, workers: int, epoch: int = 0) -> list:
    dataset = ImageDataset(records, MultiCrop((64, 32), (32, 16), 2), seed=3)
    plan = PKSampler(records.pid, batch_size=8, num_instances=4).epoch(epoch)
    return list(build_loader(dataset, EpochBatches(plan, epoch), num_workers=workers))


def flat(loaded: list) -> list[torch.Tensor]:
    return [tensor for views, pids in loaded for tensor in (*views, pids)]


def test_batches_do_not_depend_on_the_number_of_workers(records: Records) -> None:
    alone = flat(batches(records, 0))
    assert [tuple(t.shape) for t in alone[:5]] == [(8, 3, 64, 32)] * 2 + [(8, 3, 32, 16)] * 2 + [(8,)]
    assert alone[4].dtype == torch.int64
    for workers in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(alone, flat(batches(records, workers)), strict=True))
    assert not torch.equal(alone[0], flat(batches(records, 0, epoch=1))[0])


def test_a_sample_depends_on_its_key_alone(records: Records) -> None:
    dataset = ImageDataset(records, TrainTransform((64, 32)), seed=3)
    key = SampleKey(5, 2, 1)
    (view,), pid = dataset[key]
    assert pid == 1
    torch.manual_seed(99)
    assert torch.equal(dataset[key][0][0], view)
    others = [dataset[k][0][0] for k in (SampleKey(5, 3, 1), SampleKey(5, 2, 0), SampleKey(5))]
    others.append(ImageDataset(records, TrainTransform((64, 32)), seed=4)[key][0][0])
    assert not any(torch.equal(view, other) for other in others)


def test_one_rank_sees_what_two_ranks_see(records: Records) -> None:
    dataset = ImageDataset(records, TrainTransform((64, 32)), seed=0)

    def load(batch: int, world: int, rank: int) -> torch.Tensor:
        plan = PKSampler(records.pid, batch_size=batch, num_instances=2, world_size=world, rank=rank).epoch(0)
        return torch.stack([views[0] for views, _ in build_loader(dataset, EpochBatches(plan, 0))])

    assert torch.equal(torch.cat([load(4, 2, 0), load(4, 2, 1)], dim=1), load(8, 1, 0))


def test_loading_leaves_global_random_states_alone(records: Records) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(records, 0)
    batches(records, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_batches_of_plain_rows(records: Records) -> None:
    loader = build_loader(ImageDataset(records, EvalTransform((64, 32))), [[0, 5], [23]])
    loaded = list(loader)
    assert len(loader) == 2
    assert loaded[0][1].tolist() == [0, 1]
    assert loaded[1][0][0].shape == (1, 3, 64, 32)


def test_epoch_batches_start_in_the_middle() -> None:
    plan = np.arange(12).reshape(3, 2, 2)
    assert EpochBatches(plan, 7)[0] == [SampleKey(0, 7, 1), SampleKey(2, 7, 3)]
    assert list(EpochBatches(plan, 7, start=1)) == list(EpochBatches(plan, 7))[1:]
    assert len(EpochBatches(plan, 7, start=1)) == 2


def test_dataset_travels_to_spawned_workers(records: Records) -> None:
    dataset = ImageDataset(records, MultiCrop((64, 32), (32, 16), 1), seed=1)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[SampleKey(3)][0][0], dataset[SampleKey(3)][0][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_in_the_parent(records: Records, workers: int) -> None:
    bad = Path(records.path[5])
    bad.write_bytes(bad.read_bytes()[:200])
    loader = build_loader(ImageDataset(records, EvalTransform((64, 32))), [[0, 5]], num_workers=workers)
    with pytest.raises(CorruptImageError) as error:
        list(loader)
    assert str(error.value).startswith(f"The image {bad} cannot be decoded (")
    assert str(error.value).endswith("reidzoo data check DATA --decode")
    assert "\n" not in str(error.value)


def test_a_vanished_image_is_named(records: Records) -> None:
    Path(records.path[5]).unlink()
    loader = build_loader(ImageDataset(records, EvalTransform((64, 32))), [[5]], num_workers=1)
    with pytest.raises(DataNotFoundError, match=f"^The image {records.path[5]} is missing"):
        list(loader)


def test_loading_keeps_the_callers_number_of_threads(records: Records) -> None:
    threads = torch.get_num_threads()
    inside = []
    dataset = ImageDataset(records, lambda image, rng: torch.tensor(inside.append(torch.get_num_threads()) or 0.0))
    try:
        torch.set_num_threads(2)
        dataset[SampleKey(0)]
        Path(records.path[1]).write_bytes(b"")
        with pytest.raises(CorruptImageError):
            dataset[SampleKey(1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert inside == [1]


def test_negative_seed(records: Records) -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        ImageDataset(records, EvalTransform(), seed=-1)


# ---- read_image


def test_modes_become_rgb(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    image, file = Image.fromarray(rgb), str(tmp_path / "x")

    def saved(what: Image.Image, suffix: str) -> np.ndarray:
        what.save(file + suffix)
        read = read_image(file + suffix)
        assert read.mode == "RGB"
        return np.asarray(read)

    assert np.array_equal(saved(image, ".png"), rgb)
    grey = np.asarray(image.convert("L"))
    assert np.array_equal(saved(image.convert("L"), ".png"), np.stack([grey] * 3, axis=-1))
    assert np.array_equal(saved(image.convert("RGBA"), ".png"), rgb)
    palette = image.quantize(16)
    assert np.array_equal(saved(palette, ".png"), np.asarray(palette.convert("RGB")))
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    assert np.array_equal(saved(deep, ".png")[..., 0], grey)
    flat = Image.new("RGB", (16, 16), (200, 60, 30))
    assert np.abs(saved(flat.convert("CMYK"), ".jpg").astype(int) - (200, 60, 30)).max() <= 6


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees clockwise to view
    image.save(tmp_path / "x.png", exif=exif)
    read = read_image(str(tmp_path / "x.png"))
    assert np.array_equal(np.asarray(read), np.rot90(np.asarray(image), -1))


@pytest.fixture
def damaged(tmp_path: Path, write_image: WriteImage) -> dict[str, Path]:
    files = {name: write_image(tmp_path / "bad" / f"{name}.{name.split('_')[1]}") for name in ("cut_jpg", "cut_png")}
    for file in files.values():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    files["empty"] = tmp_path / "bad" / "empty.jpg"
    files["empty"].touch()
    files["text"] = tmp_path / "bad" / "text.jpg"
    files["text"].write_text("<html>404</html>")
    files["folder"] = tmp_path / "bad" / "folder.jpg"
    files["folder"].mkdir()
    files["float"] = tmp_path / "bad" / "float.tiff"
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(files["float"])
    return files


@pytest.mark.parametrize("name", ["cut_jpg", "cut_png", "empty", "text", "folder", "float"])
def test_damaged_files_are_named(damaged: dict[str, Path], name: str) -> None:
    with pytest.raises(CorruptImageError, match=f"The image {damaged[name]} cannot be decoded"):
        read_image(str(damaged[name]))


def test_check_images_finds_exactly_the_damaged(records: Records, damaged: dict[str, Path], tmp_path: Path) -> None:
    paths = [*records.path, *map(str, damaged.values()), str(tmp_path / "gone.jpg")]
    mixed = np.random.default_rng(0).permutation(len(paths))
    everything = Records.from_columns([paths[i] for i in mixed], np.ones(len(paths)), np.zeros(len(paths)))
    bad = check_images(everything, workers=2)
    assert [i for i, _ in bad] == [at for at, i in enumerate(mixed) if i >= len(records)]
    assert all(reason for _, reason in bad)
    assert check_images(records) == []
    assert check_images(Records.empty()) == []
