"""Data sets in the format of the Hugging Face hub. The package `datasets` is optional; nothing is fetched here."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reidzoo.data import load_dataset
from reidzoo.data.loaders import read_image
from reidzoo.errors import DataError, HubAccessError, MissingExtraError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "home"


def encoded(colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 16), colour).save(stream, kind)
    return stream.getvalue()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'datasets'.*pip install 'reidzoo\[data\]'"):
        load_dataset("hf:owner/name")
    assert list(home.glob("hf/*")) == []


def test_a_repository_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    asked = []

    def refuse(name: str, streaming: bool) -> None:
        asked.append((name, streaming))
        raise ConnectionError("401\n  gated")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(HubAccessError, match=r"owner/name cannot be read .*\(401 gated\).* hf auth login"):
        load_dataset("hf:owner/name")
    assert asked == [("owner/name", True)]
    assert list(home.glob("hf/*")) == []


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """A folder as `datasets` writes it: three splits in Parquet files."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "people"
    (root / "data").mkdir(parents=True)
    for split, pids in {"train": [5, 5, 9], "query": [3], "gallery": [3, -1, 0], "extra": [1]}.items():
        table = {
            "note": ["x"] * len(pids),
            "image": [{"bytes": encoded((pid + 1, i, 7)), "path": f"{i}.png"} for i, pid in enumerate(pids)],
            "pid": pids,
            "camid": list(range(len(pids))),
        }
        data = datasets.Dataset.from_dict(table).cast_column("image", datasets.Image())
        data.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return root


def test_parquet_files(parquet: Path, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_dataset(f"hf:{parquet}")
    assert data.name == "hf"
    assert data.train.pid.tolist() == [5, 5, 9]
    assert data.train.camid.tolist() == [0, 1, 2]
    assert data.query.pid.tolist() == [3]
    assert data.gallery.pid.tolist() == [3, -1, 0]
    assert [read_image(path).getpixel((0, 0)) for path in data.train.path] == [(6, 0, 7), (6, 1, 7), (10, 2, 7)]
    assert all(path.endswith(".png") for path in data.train.path)  # the files as they were
    assert "the splits ['extra'] are left out" in caplog.text
    for file in parquet.rglob("*.parquet"):
        file.unlink()
    assert load_dataset(f"hf:{parquet}").train == data.train  # from the cache
    assert [path.name for path in home.glob("hf/*")] == [data.root.name]


def test_folders_of_people(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for person in ("0007", "0012"):
            (tmp_path / "people" / split / person).mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 255, (16, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "people" / split / person / f"{i}.jpg")
    data = load_dataset(f"hf:{tmp_path / 'people'}")
    assert data.train.pid.tolist() == [7, 7, 12, 12]  # the folders' names, not the classes' numbers
    assert (data.train.camid == -1).all()
    original = tmp_path / "people" / "train" / "0007" / "0.jpg"
    assert Path(data.train.path[0]).read_bytes() == original.read_bytes()


def test_other_columns_and_splits(tmp_path: Path, home: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "texts").mkdir()
    datasets.Dataset.from_dict({"text": ["a"], "pid": [1]}).to_parquet(str(tmp_path / "texts" / "train.parquet"))
    with pytest.raises(DataError, match=r"the split train has the columns text, pid\. Expected"):
        load_dataset(f"hf:{tmp_path / 'texts'}")
    (tmp_path / "texts" / "train.parquet").rename(tmp_path / "texts" / "validation.parquet")
    with pytest.raises(DataError, match=r"has the splits validation\. Expected"):
        load_dataset(f"hf:{tmp_path / 'texts'}")
    assert list(home.glob("hf/*")) == []
