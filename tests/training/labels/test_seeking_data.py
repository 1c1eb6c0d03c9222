"""From a tracker's images to an annotation file that pre-training reads, in Python and as a command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reidzoo import create_model, extract_features, load_dataset
from reidzoo.cli.main import main
from reidzoo.data import Records, ReIDDataset, write_synthetic
from reidzoo.errors import ConfigError, DataError, DataNotFoundError
from reidzoo.training.labels.seeking import seek_identities
from reidzoo.training.labels.seeking_config import SeekConfig
from reidzoo.training.labels.seeking_data import seek_in_data, tracked_records

FAST = {"img_size": (32, 16), "num_workers": 0, "device": "cpu"}


class Loud(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1e6 + x.mean((2, 3))


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 drawn people by 3 cameras, in LUPerson-NL's layout."""
    root = tmp_path_factory.mktemp("footage") / "nl"
    return write_synthetic(root, layout="luperson_nl", identities=6, cameras=3, videos=1, images=3, size=(32, 16))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("timm/test_vit", img_size=(32, 16))


def test_labels_are_written_as_cion_al(footage: Path, model, tmp_path: Path) -> None:
    config = SeekConfig(sigma_cst=0.5, sigma_drm=0.05)
    sought = seek_in_data(model, f"luperson_nl:{footage}", tmp_path / "out", config=config, **FAST)
    records = load_dataset(f"luperson_nl:{footage}").train
    features = np.load(tmp_path / "out" / "features.npy")
    assert features.dtype == np.float16
    exact = extract_features(model, records, flip=False, **FAST)
    np.testing.assert_allclose(features, exact, rtol=2e-3, atol=1e-4)
    video, tracklet, frame = (records.extras[name] for name in ("video", "tracklet", "frame"))
    labels = seek_identities(features, video, tracklet, frame_ids=frame, config=config)
    np.testing.assert_array_equal(sought.found.labels, labels)
    assert 1 < labels.max() < len(np.unique(tracklet)) - 1

    written = load_dataset(f"cion_al:{tmp_path / 'out'}").train
    order = np.argsort(labels[labels >= 0], kind="stable")
    kept = records.select(np.flatnonzero(labels >= 0)[order])
    assert written.pid.tolist() == np.sort(labels[labels >= 0]).tolist()
    assert [Path(path).resolve() for path in written.path] == [Path(path).resolve() for path in kept.path]
    for name in ("video", "tracklet", "frame"):
        assert written.extras[name].tolist() == kept.extras[name].tolist()
    report = json.loads((tmp_path / "out" / "seek.json").read_text())
    assert report["settings"]["sigma_drm"] == 0.05
    assert report["identities"] == labels.max() + 1

    made = (tmp_path / "out" / "features.npy").stat().st_mtime_ns
    again = seek_in_data(model, f"luperson_nl:{footage}", tmp_path / "out", config=SeekConfig(sigma_drm=0.15), **FAST)
    assert (tmp_path / "out" / "features.npy").stat().st_mtime_ns == made  # not extracted again
    assert again.found.report.identities < sought.found.report.identities


def test_command_with_calibration(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain folder of videos and tracklets, as any tracker can write it."""
    for path in footage.rglob("*.jpg"):
        country, city, video, name = path.relative_to(footage).parts
        place = tmp_path / "tracks" / f"{country}-{city}-{video}" / name.split("_")[0] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    marked = write_synthetic(tmp_path / "people", layout="folder", identities=12, cameras=2, videos=1, size=(32, 16))
    words = ["seek", tmp_path / "tracks", tmp_path / "out", "--model", "timm/test_vit", "--img-size", "32x16"]
    words += ["--num-workers", "0", "--calibrate", f"folder:{marked}", "--min-images", "1"]
    assert main([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    assert "3 across videos" in out
    assert f"next    reidzoo pretrain MODEL cion_al:{tmp_path / 'out'}" in out
    assert "Calibrated: sigma_cst" in err
    data = load_dataset(f"cion_al:{tmp_path / 'out'}")
    assert "published" not in capsys.readouterr().err
    assert len(data.train) == len(list(footage.rglob("*.jpg")))
    about = json.loads((tmp_path / "out" / "seek.json").read_text())
    assert about["calibration"]["sigma_cst"] == about["settings"]["sigma_cst"] != 0.2
    with Image.open(data.train.path[0]) as image:
        assert image.size == (16, 32)


def test_tracklets_in_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b/1/x.jpg", "b/1/y.png", "a/7/0.jpg", "a/2/0.jpg", "a/2/notes.txt", "a/stray.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    train = load_dataset(f"tracklets:{tmp_path}").train
    names = [path.removeprefix(f"{tmp_path}/") for path in train.path]
    assert names == ["a/2/0.jpg", "a/7/0.jpg", "b/1/x.jpg", "b/1/y.png"]
    assert train.extras["video"].tolist() == [0, 0, 1, 1]
    assert train.extras["tracklet"].tolist() == train.pid.tolist() == [0, 1, 2, 2]
    assert [record.args[1:3] for record in caplog.records] == [(1, "stray.jpg"), (1, "notes.txt")]
    with pytest.raises(DataNotFoundError, match=f"no images in folders <video>/<tracklet>(.|\n)*{tmp_path}/a"):
        load_dataset(f"tracklets:{tmp_path}/a")


def test_records_are_sorted_into_tracklets(tmp_path: Path) -> None:
    shuffled = Records.from_columns(
        ["d", "a", "c", "b"], [0] * 4, [0] * 4, video=[1, 0, 0, 0], tracklet=[0, 3, 5, 3], frame=[0, 1, 0, 2]
    )
    data = ReIDDataset("mine", tmp_path, shuffled, Records.empty(), Records.empty())
    assert list(tracked_records(data).path) == ["a", "b", "c", "d"]


def test_what_cannot_be(footage: Path, model, tmp_path: Path) -> None:
    spec = f"luperson_nl:{footage}"
    with pytest.raises(ConfigError, match=f"{footage}/out lies in the folder of the images"):
        seek_in_data(model, spec, footage / "out", **FAST)
    people = write_synthetic(tmp_path / "people", layout="folder", identities=2, cameras=2, size=(32, 16))
    with pytest.raises(DataError, match="no column video and no column tracklet; seeking starts from a tracker's"):
        seek_in_data(model, f"folder:{people}", tmp_path / "out", **FAST)
    theirs = tmp_path / "cion" / "cional_annos.json"
    theirs.parent.mkdir()
    theirs.write_text("[]")
    with pytest.raises(ConfigError, match=f"{theirs} is not of reidzoo's making"):
        seek_in_data(model, spec, theirs.parent, **FAST)
    (tmp_path / "kept" / "images").mkdir(parents=True)
    with pytest.raises(ConfigError, match="exists and is no link"):
        seek_in_data(model, spec, tmp_path / "kept", **FAST)
    with pytest.raises(DataError, match="too large for float16"):
        extract_features(
            Loud(), load_dataset(spec).train, out=tmp_path / "x.npy", dtype="float16", num_workers=0,
            transform=lambda image: torch.ones(3, 8, 4),
        )  # fmt: skip
