"""Features written while they are made: the same as in memory, also after a kill; never over somebody else's."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reidzoo.errors import ConfigError, CorruptImageError, DataError, DataNotFoundError
from reidzoo.eval import check_same_model, extract_features, feature_files, load_features
from reidzoo.eval.feature_files import fingerprint, save_features


@pytest.fixture
def out(tmp_path):
    return tmp_path / "kept" / "query.npy"


class Counting(nn.Module):
    """The mean colours of an image; counts the images, and may end its process."""

    def __init__(self, kill_after=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.seen, self.kill_after = 0, kill_after
        self.pretrained_cfg = {"input_size": (3, 64, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def forward(self, x):
        self.seen += len(x)
        if self.kill_after is not None and self.seen > self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.cat([x.mean((2, 3)) * self.weight, x.std((2, 3))], 1)


def extract(model, images, **options):
    return extract_features(model, images, num_workers=0, **{"batch_size": 4, "flip": False, **options})


def test_file_ids_and_settings(crops, out):
    expected = extract(Counting(), crops)
    found = extract(Counting(), crops, out=out)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.load(out), expected)
    with (out.parent / "query.ids.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert [row["path"] for row in rows] == list(crops.path)
    assert [int(row["pid"]) for row in rows] == crops.pid.tolist()
    assert [int(row["camid"]) for row in rows] == crops.camid.tolist()
    assert sorted(p.name for p in out.parent.iterdir()) == ["query.ids.csv", "query.json", "query.npy"]

    again = load_features(out)
    np.testing.assert_array_equal(again.values, expected)
    assert again.records == crops
    assert again.made_by["weights"] == fingerprint(Counting())


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_killed_job_goes_on(crops, out, monkeypatch):
    monkeypatch.setattr(feature_files, "_EVERY", 0)  # mark each batch
    child = os.fork()
    if child == 0:
        extract(Counting(kill_after=42), crops, out=out)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not out.exists()
    with pytest.raises(DataNotFoundError, match="was stopped: type the same command again"):
        load_features(out)
    model = Counting()
    found = extract(model, crops, out=out, batch_size=5)
    np.testing.assert_allclose(found, extract(Counting(), crops), atol=1e-6)
    # What was done is not done again: one image for the width, and those behind the batches that were marked.
    assert 64 - 40 <= model.seen - 1 <= 64 - 36


def test_an_error_loses_nothing(crops, out, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(10)]
    for path, source in zip(paths, crops.path, strict=False):
        Image.open(source).save(path)
    whole = (tmp_path / "8.png").read_bytes()
    (tmp_path / "8.png").write_bytes(whole[:100])
    with pytest.raises(CorruptImageError, match=r"8\.png"):
        extract(Counting(), paths, out=out, batch_size=2)
    (tmp_path / "8.png").write_bytes(whole)
    model = Counting()
    found = extract(model, paths, out=out, batch_size=2)
    np.testing.assert_array_equal(found, extract(Counting(), paths))
    assert model.seen < 10


def test_finished_features_are_used_again_and_others_never_overwritten(crops, out):
    expected = extract(Counting(), crops, out=out)
    model = Counting()
    np.testing.assert_array_equal(extract(model, crops, out=out, batch_size=64), expected)
    assert model.seen == 1
    other = Counting()
    torch.nn.init.constant_(other.weight, 2)
    for what, changed, images, options in (
        ("weights", other, crops, {}),
        ("flip", model, crops, {"flip": True}),
        ("transform", model, crops, {"img_size": (32, 32)}),
        ("names", model, crops.select(np.arange(64)[::-1]), {}),
        ("images", model, crops.path[:5], {}),
        ("scales", model, crops, {"scales": (1, 1.5)}),
    ):
        with pytest.raises(ConfigError, match=rf"holds other features.*{what}: .*overwrite"):
            extract(changed, images, out=out, **options)
    np.testing.assert_array_equal(np.load(out), expected)
    extract(other, crops, out=out, overwrite=True)
    np.testing.assert_allclose(np.load(out)[:, :3], 2 * expected[:, :3], atol=1e-6)


def test_a_foreign_file_is_left_alone(crops, out):
    out.parent.mkdir()
    out.write_text("precious")
    with pytest.raises(ConfigError, match="does not say how"):
        extract(Counting(), crops, out=out)
    assert out.read_text() == "precious"
    with pytest.raises(ConfigError, match=r"ends in \.npy"):
        extract(Counting(), crops, out=out.with_suffix(".txt"))
    with pytest.raises(ConfigError, match="by file name"):
        extract(Counting(), torch.zeros(2, 3, 8, 8), out=out, overwrite=True)


def test_the_fingerprint_tells_weights_apart():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200))
    before = fingerprint(model)
    assert fingerprint(model) == before
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    model(torch.randn(4, 300)).square().sum().backward()
    optimizer.step()
    assert fingerprint(model) != before
    assert fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))


def test_npz_and_what_does_not_belong_together(crops, tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    save_features(tmp_path / "a.npz", values, crops, {"weights": "1", "flip": True})
    a = load_features(tmp_path / "a.npz")
    np.testing.assert_array_equal(a.values, values)
    assert a.records == crops
    save_features(tmp_path / "b.npz", values, crops, {"weights": "2", "flip": True})
    check_same_model(a, a)
    with pytest.raises(DataError, match="weights is '1' for the query and '2' for the gallery"):
        check_same_model(a, load_features(tmp_path / "b.npz"))


def test_what_is_no_feature_file(crops, out, tmp_path):
    extract(Counting(), crops, out=out)
    with pytest.raises(DataNotFoundError, match="no feature file"):
        load_features(tmp_path / "gone.npy")
    lines = (out.parent / "query.ids.csv").read_text().splitlines()
    (out.parent / "query.ids.csv").write_text("\n".join(lines[:-3]))
    with pytest.raises(DataError, match=r"shape \(64, 6\) for 61 images"):
        load_features(out)
    (out.parent / "query.ids.csv").unlink()
    with pytest.raises(DataNotFoundError, match=r"no query\.ids\.csv"):
        load_features(out)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="no feature file of reidzoo"):
        load_features(tmp_path / "other.npz")
    assert json.loads((out.parent / "query.json").read_text())["images"] == 64
