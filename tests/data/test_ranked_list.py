"""Lists of images: the files, what a name means, and what is said where it means nothing."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from reidzoo.data import Records, ReIDDataset
from reidzoo.data.ranked_list import first_part, keep_best, read_name_list, training_names, write_name_list
from reidzoo.errors import ConfigError, DataError, DataNotFoundError

NAMES = ["34_01_0341_00001865.jpg", "02_01_0001_00000007.jpg", "02_01_0001_00000003.jpg", "ü/Ω 1.jpg"]


def collection(*paths: str) -> Records:
    return Records.from_columns(paths, np.arange(len(paths)), np.full(len(paths), -1))


def written(file: Path, *names: str) -> Path:
    write_name_list(file, names)
    return file


@pytest.mark.parametrize("suffix", [".pkl", ".json", ".txt"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    names = [*NAMES, os.fsdecode(b"no utf-8 \xff.jpg")] + (["line\x0bseparators\x85.jpg"] if suffix != ".txt" else [])
    file = written(tmp_path / "new" / f"list{suffix}", *names)
    assert read_name_list(file) == names
    assert list(file.parent.iterdir()) == [file]


def test_the_pickle_is_a_plain_list_of_names(tmp_path: Path) -> None:
    """As TransReID-SSL loads it: best first, only names."""
    with open(written(tmp_path / "CFS_list.pkl", *NAMES), "rb") as stream:
        assert pickle.load(stream) == NAMES


@pytest.mark.parametrize("name", ["two\nlines.jpg", " blank.jpg", "blank.jpg ", "", "a\r.jpg"])
def test_a_text_file_refuses_names_that_it_would_change(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"cannot hold the name .* Write .json or .pkl instead"):
        write_name_list(tmp_path / "list.txt", ["a.jpg", name])
    assert not any(tmp_path.iterdir())


def test_files_of_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list.csv; expected a name that ends in .pkl, .json, .txt"):
        write_name_list(tmp_path / "list.csv", NAMES)
    with pytest.raises(DataNotFoundError, match=r"There is no list of images .*gone.pkl. Make one with: reidzoo cfs"):
        read_name_list(tmp_path / "gone.pkl")
    with pytest.raises(DataError, match="cannot be read"):
        read_name_list(tmp_path)  # a folder


def test_first_part_rounds_up_in_decimals() -> None:
    everything = range(4_180_243)
    assert len(first_part(everything, 0.5)) == 2_090_122  # TransReID-SSL's two settings
    assert len(first_part(everything, 0.6)) == 2_508_146
    assert len(first_part(range(100), 0.07)) == 7  # 0.07 * 100 is a little more than 7
    assert len(first_part(range(3), 0.01)) == 1
    assert first_part(NAMES, 1.0) == NAMES


def dataset(root: Path, *paths: str) -> ReIDDataset:
    return ReIDDataset("any", root, collection(*paths), Records.empty(), Records.empty())


def test_names_are_relative_to_images_or_the_root() -> None:
    root = Path("/d/LUP")
    assert training_names(dataset(root, "/d/LUP/images/a.jpg", "/d/LUP/images/1/b.jpg")) == ["a.jpg", "1/b.jpg"]
    assert training_names(dataset(root, "/d/LUP/images/a.jpg", "/d/LUP/b.jpg")) == ["images/a.jpg", "b.jpg"]
    assert training_names(dataset(root, "/d/LUP/images/a.jpg", "/d/LUPx/b.jpg")) == [
        "/d/LUP/images/a.jpg",
        "/d/LUPx/b.jpg",
    ]


PATHS = ("/d/x/images/1/a.jpg", "/d/x/images/1/b.jpg", "/d/x/images/2/c.jpg", "/d/x/images/2/d.jpg")


@pytest.mark.parametrize(
    "names",
    [
        ("c.jpg", "d.jpg", "a.jpg"),
        ("2/c.jpg", "2/d.jpg", "1/a.jpg"),
        ("images/2/c.jpg", "d.jpg", "1/a.jpg"),
        ("/d/x/images/2/c.jpg", "images/2/d.jpg", "a.jpg"),
    ],
)
def test_a_name_is_the_end_of_a_path(tmp_path: Path, names: tuple[str, ...]) -> None:
    records, file = collection(*PATHS), written(tmp_path / "list.txt", *names)
    assert keep_best(records, file) == records.select([0, 2, 3])  # in the order of the data
    assert keep_best(records, file, 0.5) == records.select([2, 3])
    assert keep_best(records, file, 0.1) == records.select([2])


def test_a_name_is_not_the_end_of_a_file_name(tmp_path: Path) -> None:
    records = collection("/d/xa.jpg", "/d/a.jpg")
    assert keep_best(records, written(tmp_path / "list.txt", "a.jpg")) == records.select([1])


def test_a_name_that_fits_two_images(tmp_path: Path) -> None:
    records, file = collection("/d/1/a.jpg", "/d/2/a.jpg"), written(tmp_path / "list.txt", "a.jpg")
    with pytest.raises(DataError, match=r"names 'a.jpg', which fits /d/1/a.jpg and /d/2/a.jpg. Name the images with"):
        keep_best(records, file)
    assert keep_best(records, written(file, "2/a.jpg")) == records.select([1])


def test_names_without_an_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records, file = collection(*PATHS), written(tmp_path / "list.txt", "z.jpg", "a.jpg", "y.jpg", "b.jpg")
    with pytest.raises(
        DataNotFoundError, match=r"2 of the 4 images that .* are not there: z.jpg, y.jpg. .*--skip-corr"
    ):
        keep_best(records, file)
    with caplog.at_level(logging.WARNING):
        assert keep_best(records, file, skip_missing=True) == records.select([0, 1])
    assert "left out 2 of the 4 images" in caplog.text
    assert keep_best(records, written(file, "b.jpg", "z.jpg"), 0.5) == records.select([1])  # what is not kept may lack
    with pytest.raises(
        DataNotFoundError, match=r"None of the 1 images .* is among the 4 .* named like /d/x/images/1/a"
    ):
        keep_best(records, written(file, "z.jpg"), skip_missing=True)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_the_share_is_above_0_up_to_1(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"data_fraction is .*; expected more than 0 and at most 1"):
        keep_best(collection(*PATHS), tmp_path / "list.txt", share)


def test_against_the_definition_on_random_lists(tmp_path: Path) -> None:
    """Every image by hand: is it the one that some kept name ends?"""
    rng = np.random.default_rng(0)
    paths = [f"/data/{a}/{b}/{a}{b}{c}.jpg" for a in range(4) for b in range(4) for c in range(4)]
    for _ in range(20):
        chosen = rng.permutation(len(paths))[: rng.integers(1, len(paths))]
        names = [paths[i].rsplit("/", d)[-d:] for i, d in zip(chosen, rng.integers(1, 5, len(chosen)), strict=True)]
        listed = ["/".join(parts) for parts in names]
        share = float(rng.uniform(0.05, 1))
        kept = listed[: int(np.ceil(share * len(listed)))]
        expected = [i for i, path in enumerate(paths) if any(path == k or path.endswith("/" + k) for k in kept)]
        got = keep_best(collection(*paths), written(tmp_path / "list.json", *listed), share)
        assert got.pid.tolist() == expected
