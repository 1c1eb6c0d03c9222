"""The catastrophic forgetting score: its value, its meaning, its files, and what it refuses."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import reidzoo
from reidzoo.data import Records, load_dataset, write_synthetic
from reidzoo.data.ranked_list import read_name_list, training_names
from reidzoo.errors import ConfigError, CorruptImageError, DataError
from reidzoo.training.labels.cfs import cfs_scores, write_ranking

SIZE = (64, 32)
QUICK = {"num_workers": 0, "device": "cpu"}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return reidzoo.create_model("timm/test_vit", img_size=SIZE)


def fine_tuned(source: nn.Module, seed: int = 1) -> nn.Module:
    """The source with other weights, another normalisation and a neck, as `finetune` leaves it."""
    target = network()
    torch.manual_seed(seed)
    with torch.no_grad():
        for mine, its in zip(target.parameters(), source.parameters(), strict=True):
            mine.copy_(its + 0.3 * its.std() * torch.randn_like(its) if its.numel() > 1 else its)
    target.pretrained_cfg = {**target.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.4, 0.5, 0.6)}
    neck = reidzoo.models.BNNeck(target.embed_dim, 5, neck_feature="after")
    neck.bottleneck.running_mean.fill_(3.0)  # would change every angle
    return reidzoo.models.ReIDModel(target, neck)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people in the layout of LUPerson: images/<country>_<city>_<video>_<index>.jpg."""
    root = tmp_path_factory.mktemp("pool") / "LUP"
    return write_synthetic(root, layout="luperson", identities=6, cameras=2, videos=1, tracklets=1, images=2, size=SIZE)


def plain_score(path: str, source: nn.Module, target: nn.Module) -> float:
    """The definition, for one image: cosine of the backbones' features, each from its own normalisation."""
    pixels = np.asarray(Image.open(path).convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)) / 255
    features = []
    for backbone in (source, target.backbone):
        mean, std = (np.array(backbone.pretrained_cfg[key]) for key in ("mean", "std"))
        x = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            features.append(backbone.eval()(x)[0].double().numpy())
    a, b = features
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_the_definition(pool: Path) -> None:
    source = network()
    target, data = fine_tuned(source), load_dataset(f"luperson:{pool}")
    scores = cfs_scores(source, target, data, **QUICK)
    assert scores.dtype == np.float32
    assert scores.shape == (len(data.train),)
    expected = [plain_score(path, source, target) for path in data.train.path]
    assert np.std(expected) > 0.001  # the images differ
    np.testing.assert_allclose(scores, expected, atol=2e-6)
    few = data.train.select([5, 2, 9])
    np.testing.assert_allclose(cfs_scores(source, target, few, batch_size=2, **QUICK), scores[[5, 2, 9]], atol=2e-6)


class Colour(nn.Module):
    """The mean colour, of which "fine-tuning" turns blue round: an image forgets as much as there is blue in it."""

    def __init__(self, blue: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0, blue]))
        self.pretrained_cfg = {"input_size": (3, *SIZE), "mean": (0, 0, 0), "std": (1, 1, 1)}

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) * self.weight


def test_what_is_forgotten_comes_last(tmp_path: Path) -> None:
    colours = [(200, 100, 0), (20, 20, 220), (10, 90, 60), (100, 100, 100), (0, 0, 255)]
    for i, colour in enumerate(colours):
        Image.new("RGB", SIZE[::-1], colour).save(tmp_path / f"{i}.png")
    files = [tmp_path / f"{i}.png" for i in range(len(colours))]
    records = Records.from_columns(files, [-1] * 5, [-1] * 5)
    scores = cfs_scores(Colour(1.0), Colour(-1.0), records, **QUICK)
    np.testing.assert_allclose(
        scores, [(r * r + g * g - b * b) / (r * r + g * g + b * b) for r, g, b in colours], atol=1e-6
    )
    write_ranking(tmp_path / "out", [file.name for file in files], scores)
    assert read_name_list(tmp_path / "out" / "CFS_list.pkl") == ["0.png", "2.png", "3.png", "1.png", "4.png"]


def test_equal_scores_stay_in_the_order_of_the_data(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).integers(0, 3, 300).astype(np.float32)
    write_ranking(tmp_path, [f"{i}.jpg" for i in range(300)], scores)
    expected = sorted(range(300), key=lambda i: (-scores[i], i))
    assert read_name_list(tmp_path / "CFS_list.json") == [f"{i}.jpg" for i in expected]


def released_loader(list_path: Path, data_path: Path, keep_num: int) -> list[str]:
    """How TransReID-SSL reads the list, from its description: names below ``images``, the first ones, all label 0."""
    with open(list_path, "rb") as stream:
        names = pickle.load(stream)
    return [f"{data_path}/images/{name}" for name in names[:keep_num]]


def test_the_list_is_read_by_both_sides(pool: Path, tmp_path: Path) -> None:
    data = load_dataset(f"luperson:{pool}")
    scores = np.linspace(-1, 1, len(data.train), dtype=np.float32)[
        np.random.default_rng(0).permutation(len(data.train))
    ]
    files = write_ranking(tmp_path, training_names(data), scores)
    best_first = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    paths = [data.train.path[i] for i in best_first]
    assert released_loader(tmp_path / "CFS_list.pkl", pool, 7) == paths[:7]
    with np.load(files[0]) as saved:
        assert dict(zip(saved["names"].tolist(), saved["scores"].tolist(), strict=True)) == {
            Path(path).name: scores[i] for path, i in zip(data.train.path, range(len(scores)), strict=True)
        }
    assert [file.name for file in files] == ["cfs.npz", "CFS_list.pkl", "CFS_list.json", "CFS_list.txt"]
    for file in files[1:]:
        copy = shutil.copytree(pool, tmp_path / file.suffix[1:], ignore=shutil.ignore_patterns("*_list.*"))
        shutil.copy(file, copy)
        ours = load_dataset(f"luperson@cfs50:{copy}").train
        assert [Path(path).name for path in ours.path] == [Path(path).name for path in paths[: (len(paths) + 1) // 2]]


def test_scores_in_a_file_go_on_and_are_not_mixed_up(pool: Path, tmp_path: Path) -> None:
    source, records, out = network(), load_dataset(f"luperson:{pool}").train, tmp_path / "cfs.npy"
    target = fine_tuned(source)
    broken = tmp_path / "broken.jpg"
    shutil.copy(records.path[0], broken)
    listed = Records.from_columns([*records.path[:4], broken], [-1] * 5, [-1] * 5)
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    with pytest.raises(CorruptImageError, match=r"broken.jpg cannot be decoded"):
        cfs_scores(source, target, listed, out=out, batch_size=2, **QUICK)
    broken.write_bytes(good)
    done = cfs_scores(source, target, listed, out=out, **QUICK)
    np.testing.assert_array_equal(done, cfs_scores(source, target, listed, out=out, **QUICK))
    np.testing.assert_allclose(done[[0, 4]], plain_score(str(broken), source, target), atol=2e-6)
    other = fine_tuned(source, seed=2)
    with pytest.raises(ConfigError, match=r"holds other features \(weights: .*--overwrite"):
        cfs_scores(source, other, listed, out=out, **QUICK)
    again = cfs_scores(source, other, listed, out=out, overwrite=True, **QUICK)
    assert np.abs(np.asarray(again) - plain_score(str(broken), source, other))[4] < 2e-6


def test_the_networks_are_left_as_they_were(pool: Path) -> None:
    source = network().train()
    target = fine_tuned(source).train()
    target.head.eval()
    before = {name: x.clone() for name, x in target.state_dict().items()}
    cfs_scores(source, target, load_dataset(f"luperson:{pool}").train.select([0, 1]), **QUICK)
    assert source.training
    assert target.training
    assert target.backbone.training
    assert not target.head.training
    assert target.state_dict().keys() == before.keys()


def test_networks_that_are_no_pair(pool: Path) -> None:
    source, records = network(), load_dataset(f"luperson:{pool}").train
    with pytest.raises(ConfigError, match="have the same weights, so that every score would be 1"):
        cfs_scores(source, network(), records, **QUICK)
    with pytest.raises(ConfigError, match=r"different networks: \d+ tensors differ, such as .*absent"):
        cfs_scores(source, reidzoo.create_model("timm/test_resnet", img_size=SIZE), records, **QUICK)
    larger = reidzoo.create_model("timm/test_vit", img_size=(96, 48))
    with pytest.raises(ConfigError, match=r"source takes images of \(64, 32\), target of \(96, 48\).*--img-size"):
        cfs_scores(source, larger, records, **QUICK)
    with pytest.raises(DataError, match="no training images to score"):
        cfs_scores(source, larger, Records.empty(), **QUICK)
