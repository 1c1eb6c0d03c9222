"""What is said, and when, about data and settings that cannot be meant: before a run starts, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reidzoo
from reidzoo.data import Records, ReIDDataset, load_dataset, write_synthetic
from reidzoo.data.ranked_list import training_names, write_name_list
from reidzoo.errors import ConfigError, CorruptImageError, DataError, DataNotFoundError, TrainingError
from reidzoo.training._doubts import doubts
from reidzoo.training.configs import BaselineConfig, CIONConfig, DINOConfig, TransReIDConfig, make_config

TINY: dict[str, Any] = {
    **{"epochs": 1, "batch_size": 8, "num_instances": 2, "warmup_epochs": 0, "freeze_last_layer": 0, "local_crops": 1},
    **{"local_size": (32, 16), "output_dim": 32, "hidden_dim": 16, "img_size": (32, 16), "num_workers": 0},
    **{"device": "cpu"},
}
Pretrain = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people in CION-AL's layout: 6 persons, 8 images each."""
    root = tmp_path_factory.mktemp("data") / "cion"
    return write_synthetic(
        root, layout="cion_al", identities=6, cameras=2, videos=1, tracklets=2, images=2, size=(32, 16)
    )


@pytest.fixture
def train(listed: Path) -> Records:
    return load_dataset(f"cion_al:{listed}").train


@pytest.fixture
def pretrain(tmp_path: Path) -> Pretrain:
    """pretrain(data, **settings): a short run; returns what its config.json says."""

    def run(data: str | ReIDDataset, **settings: Any) -> dict[str, Any]:
        reidzoo.pretrain("timm/test_vit", data, output_dir=tmp_path / "run", **{**TINY, **settings})
        return json.loads((tmp_path / "run" / "config.json").read_text())

    return run


def people(train: Records, pid: Any) -> ReIDDataset:
    records = Records.from_columns(train.path, pid, np.full(len(train), -1))
    return ReIDDataset("mine", Path("/"), records, Records.empty(), Records.empty())


# ---- data


def test_listed_images_that_are_missing(listed: Path, tmp_path: Path, pretrain: Pretrain, caplog: Any) -> None:
    root = shutil.copytree(listed, tmp_path / "copy")
    entries = json.loads((root / "cional_annos.json").read_text())
    (root / entries[3]["file_path"]).unlink()
    entries[9]["file_path"] = "nowhere/gone.jpg"
    (root / "cional_annos.json").write_text(json.dumps(entries))
    with pytest.raises(CorruptImageError) as e:
        pretrain(f"cion_al:{root}")
    assert f"2 of {len(entries)} training images cannot be read" in str(e.value)
    assert f"{root / entries[3]['file_path']} (No such file or directory)" in str(e.value)
    assert f"{root}/nowhere/gone.jpg (No such file or directory)" in str(e.value)
    assert "--skip-corrupt" in str(e.value)
    pretrain(f"cion_al:{root}", skip_corrupt=True)
    assert f"left out 2 of {len(entries)} unreadable training images" in caplog.text


def test_no_image_that_can_be_read(train: Records, pretrain: Pretrain) -> None:
    """Leaving all of them out would leave nothing."""
    nowhere = Records.from_columns(12 * ["gone.jpg"], np.arange(12) // 2, 12 * [0])
    gone = replace(people(train, train.pid), train=nowhere)
    for skip in (False, True):
        with pytest.raises(CorruptImageError, match=r"12 of 12 training images cannot be read: gone\.jpg \(No such"):
            pretrain(gone, skip_corrupt=skip)


def test_a_list_without_images(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "cional_annos.json").write_text("[]")
    with pytest.raises(DataError, match=r"cional_annos.json lists no images. Expected:"):
        load_dataset(f"cion_al:{tmp_path}")


def test_no_training_images(train: Records, pretrain: Pretrain) -> None:
    data = replace(people(train, train.pid), train=Records.empty(), query=train)
    with pytest.raises(DataError, match=r"mine at / has no training images. .* write mine@all"):
        pretrain(data)


def test_identities_with_one_image(train: Records, pretrain: Pretrain, caplog: Any) -> None:
    """K copies of it, each drawn anew: allowed, but said where it is the rule."""
    pretrain(people(train, np.arange(len(train))))
    n = len(train)
    assert f"{n} of {n} identities have one image" in caplog.text
    assert "method='dino'" in caplog.text


def test_k_larger_than_every_identity(train: Records, pretrain: Pretrain, caplog: Any) -> None:
    most = int(np.bincount(train.pid).max())
    pretrain(people(train, train.pid), num_instances=2 * most, batch_size=4 * most)
    assert f"num_instances is {2 * most}, but no identity has more than {most} images" in caplog.text


def test_one_identity_is_none(train: Records, pretrain: Pretrain) -> None:
    with pytest.raises(ConfigError, match=r"needs 4 identities; the data have 1 .*--method dino"):
        pretrain(people(train, np.zeros(len(train))))


def test_one_identity_without_groups_of_images(train: Records) -> None:
    """The loss is 0 from the first step on, which looks like success."""
    said = list(doubts(BaselineConfig(), people(train, np.zeros(len(train))).train))
    assert len(said) == 1
    assert f"all {len(train)} training images are of one identity: there is nothing to tell apart" in said[0]


def test_junk(train: Records, pretrain: Pretrain) -> None:
    with pytest.raises(DataError, match=r"3 of \d+ pids are negative \(junk\)"):
        pretrain(people(train, np.r_[-1, -1, -1, train.pid[3:]]))


def test_a_batch_larger_than_the_data(train: Records, pretrain: Pretrain) -> None:
    with pytest.raises(ConfigError, match=r"needs 500 identities; the data have 6 .* Choose batch_size=12 or less"):
        pretrain(people(train, train.pid), batch_size=1000)


# ---- the list of images to train on


def test_training_on_the_first_part_of_a_list(listed: Path, tmp_path: Path, pretrain: Pretrain) -> None:
    """The images that the list puts last are not even there."""
    root = shutil.copytree(listed, tmp_path / "copy")
    names = training_names(load_dataset(f"cion_al:{root}"))
    best, rest = names[1::2], names[::2]
    write_name_list(tmp_path / "list.pkl", best[::-1] + rest)
    for name in rest:
        (root / name).unlink()
    chosen: dict[str, Any] = {"ranked_list": tmp_path / "list.pkl", "data_fraction": 0.5}
    run = pretrain(f"cion_al:{root}", **chosen)
    assert run["images"] == len(best)
    assert run["config"]["ranked_list"] == str(tmp_path / "list.pkl")
    with pytest.raises(TrainingError, match=r"config.data_fraction: 0.5 -> 0.4"):
        pretrain(f"cion_al:{root}", **{**chosen, "data_fraction": 0.4})


def test_a_list_that_does_not_fit(listed: Path, tmp_path: Path, pretrain: Pretrain, caplog: Any) -> None:
    names = training_names(load_dataset(f"cion_al:{listed}"))
    file = tmp_path / "list.txt"
    with pytest.raises(DataNotFoundError, match=r"no list of images .*list.txt. Make one with: reidzoo cfs"):
        pretrain(f"cion_al:{listed}", ranked_list=file)
    write_name_list(file, ["gone.jpg", *names])
    with pytest.raises(DataNotFoundError, match=r"1 of the \d+ images .* are not there: gone.jpg. .*--skip-corrupt"):
        pretrain(f"cion_al:{listed}", ranked_list=file)
    assert not (tmp_path / "run").exists()
    run = pretrain(f"cion_al:{listed}", ranked_list=file, skip_corrupt=True)
    assert run["images"] == len(names)
    assert "left out 1 of the" in caplog.text


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5, expected a whole number like 100"),
        ({"epochs": "3"}, "epochs is '3', expected a whole number like 100"),
        ({"epochs": True}, "epochs is True, expected a whole number"),
        ({"lr": float("nan")}, "lr is nan, expected a finite number like 0.0005"),
        ({"lr": "x", "img_size": 64}, r"img_size is 64, .* like \(256, 128\); lr is 'x', expected a finite number"),
        ({"local_size": (32,)}, r"local_size is \(32,\), expected something like \(128, 64\)"),
        ({"overwrite": 1}, "overwrite is 1, expected True or False"),
        ({"probe": 3}, "probe is 3, expected a text"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"data_fraction": 0.5}, r"data_fraction 0.5 is a part of ranked_list, .*make one with: reidzoo cfs"),
        ({"data_fraction": 0, "ranked_list": "l.txt"}, "data_fraction is 0, expected more than 0 and at most 1"),
        ({"data_fraction": 2}, "data_fraction is 2, expected more than 0 and at most 1, such as 0.5$"),
        (
            {"num_instances": 7},
            "batch_size 120 is not a multiple of num_instances 7: choose a multiple of 7, such as 119",
        ),
        ({"batch_size": 16}, r"batch_size 16 is not a multiple of num_instances 6: .* multiple of 24, such as 24"),
        ({"batch_size": 1}, r"num_instances 2, 4, 6, 8: choose a multiple of 24, such as 24"),
        ({"num_instances": 240}, "batch_size 120 is not a multiple of num_instances 240"),
        ({"num_instances": 0}, "num_instances holds 0, expected at least 1"),
        ({"num_instances": 2.5}, r"num_instances is 2.5, expected something like \(\(0, 2\), \(40, 4\)"),
        ({"num_instances": (0, 2)}, r"num_instances is \(0, 2\), expected something like"),
        ({"num_instances": ((0, 2.5),)}, r"num_instances is \(\(0, 2.5\),\), expected something like"),
        ({"num_instances": ()}, r"num_instances begins at epochs \[\], expected 0 first"),
        ({"num_instances": ((1, 2),)}, r"num_instances begins at epochs \[1\], expected 0 first, then increasing"),
        ({"num_instances": ((0, 2), (5, 4), (5, 8))}, r"begins at epochs \[0, 5, 5\], expected 0 first, then increas"),
        ({"num_instances": ((0, 2), (-1, 4))}, r"begins at epochs \[0, -1\], expected 0 first, then increasing"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(CIONConfig, None, settings)


def test_k_after_the_last_entry_and_beyond_the_run_is_allowed(train: Records) -> None:
    config = make_config(CIONConfig, None, {**TINY, "batch_size": 48, "num_instances": ((0, 2), (1000, 48))})
    assert list(doubts(config, train)) == []


def test_numbers_of_either_kind_are_numbers() -> None:
    assert make_config(CIONConfig, None, {"lr": 1, "num_instances": [[0, 2], [1, 4]]}).num_instances == ((0, 2), (1, 4))


@pytest.mark.parametrize("config", [CIONConfig, DINOConfig, TransReIDConfig])
def test_published_settings_raise_no_doubts(config: Any, train: Records) -> None:
    assert list(doubts(config(), train.select(np.r_[: len(train), : len(train)]))) == []


def test_a_run_that_ends_before_it_begins(train: Records) -> None:
    said = list(doubts(make_config(DINOConfig, None, {"epochs": 1}), train))
    assert len(said) == 2
    assert "warmup_epochs is 10, but the run has 1 epochs: the learning rate never reaches its full value" in said[0]
    assert "freeze_last_layer is 1, but the run has 1 epochs: the head's last layer never learns" in said[1]


class Own(torch.nn.Module):
    """A module of somebody's own, whose output is not what it says."""

    pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 64, 32)}  # noqa: RUF012

    def __init__(self, embed_dim: int, *, pooled: bool) -> None:
        super().__init__()
        self.embed_dim, self.pooled, self.conv = embed_dim, pooled, torch.nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3)) if self.pooled else self.conv(x)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (Own(7, pooled=True), {}, r"gives \(1, 8\) for one image, but its embed_dim says \(1, 7\)"),
        (Own(8, pooled=False), {}, r"gives \(1, 8, 62, 30\)"),
        ("timm/test_vit", {"img_size": (60, 30)}, "cannot describe an image of 60x30 pixels.*patch size"),
        ("timm/test_resnet", {"method": "pcb", "parts": 9}, "into 9 parts, but this one has"),
    ],
)
def test_a_network_that_cannot_take_the_images(
    listed: Path, tmp_path: Path, model: Any, settings: dict[str, Any], message: str
) -> None:
    """Found before the first step."""
    common: dict[str, Any] = {"img_size": (64, 32), "device": "cpu", "num_workers": 0, "batch_size": 8, "epochs": 1}
    with pytest.raises(ConfigError, match=message):
        reidzoo.finetune(model, f"cion_al:{listed}", output_dir=tmp_path / "run", **{**common, **settings})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_local_views_that_the_network_cannot_take(train: Records, pretrain: Pretrain) -> None:
    with pytest.raises(ConfigError, match=r"of 40x20 pixels.*another local_size .*--local-size"):
        pretrain(people(train, train.pid), local_size=(40, 20))
