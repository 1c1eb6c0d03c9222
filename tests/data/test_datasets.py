from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reidzoo.data import ReIDDataset, list_datasets, load_dataset
from reidzoo.errors import DataError, DataNotFoundError, UnknownDatasetError

WriteImage = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
    def make(*names: str) -> Path:
        for name in names:
            write_image(tmp_path / "data" / name)
        return tmp_path / "data"

    return make


@pytest.fixture
def table(tmp_path: Path, tree: Callable[..., Path]) -> Callable[[str], Path]:
    """Write a CSV file beside a folder img/ with the images a.jpg, b.jpg, c.jpg."""

    def make(text: str) -> Path:
        file = tree("img/a.jpg", "img/b.jpg", "img/c.jpg") / "list.csv"
        file.write_text(text, encoding="utf-8")
        return file

    return make


# ---- market1501


def test_market(market: Path) -> None:
    data = load_dataset(f"market1501:{market}")
    assert (data.name, data.root) == ("market1501", market)
    assert list(data.train.path) == sorted(map(str, market.glob("bounding_box_train/*.jpg")))
    assert data.train.pid.tolist() == [2, 2, 7]
    assert data.train.camid.tolist() == [0, 1, 9]  # file names count cameras from 1, and two digits count
    assert sorted(zip(data.gallery.pid.tolist(), data.gallery.camid.tolist(), strict=True)) == [
        (-1, 0), (0, 1), (3, 1), (5, 5)
    ]  # fmt: skip
    assert all(os.path.isfile(path) for path in data.gallery.path)


def test_market_is_found_from_its_parent_and_its_child(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (market.parent, market / "query", market / "bounding_box_train"):
        assert load_dataset(f"market1501:{path}").root == market
    for name in ("market1501", "Market-1501-v15.09.15", "Market"):
        moved = market.rename(market.parent / name)
        monkeypatch.setenv("REIDZOO_DATA", str(market.parent))
        assert load_dataset("market1501").root == moved
        market = moved


def test_market_at_a_wrong_path_says_what_is_there(tmp_path: Path, market: Path) -> None:
    market.rename(tmp_path / "elsewhere")
    with pytest.raises(DataNotFoundError) as error:
        load_dataset(f"market1501:{tmp_path}")
    for part in ("bounding_box_train", str(tmp_path), "holds elsewhere/", "market1501:<root>", "REIDZOO_DATA"):
        assert part in str(error.value)
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/no/such does not exist; {tmp_path} does"):
        load_dataset(f"market1501:{tmp_path}/no/such")
    (tmp_path / "file").touch()
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/file is a file"):
        load_dataset(f"market1501:{tmp_path}/file")


def test_market_without_a_split(market: Path) -> None:
    (market / "query").rename(market / "queries")
    with pytest.raises(DataNotFoundError, match=f"query folder {market}/query is missing.*queries/"):
        load_dataset(f"market1501:{market}")


def test_market_with_an_empty_split(market: Path) -> None:
    for file in (market / "query").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=rf"query folder {market}/query has no image.*holds nothing(.|\n)*Expected"):
        load_dataset(f"market1501:{market}")


def test_market_reports_what_it_leaves_out(
    market: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("IMG_001.jpg", "anna.jpg", "-1_c1s1_000001_01.jpg"):
        write_image(market / "bounding_box_train" / name)
    with caplog.at_level(logging.WARNING):
        data = load_dataset(f"market1501:{market}")
    assert len(data.train) == 3
    assert "bounding_box_train: 2 entries left out, for example 'IMG_001.jpg': file names start with" in caplog.text
    assert "1 entries left out, for example '-1_c1s1_000001_01.jpg': pid -1 is junk" in caplog.text
    assert "Thumbs" not in caplog.text


def test_market_camera_zero(market: Path, write_image: WriteImage) -> None:
    write_image(market / "query" / "0003_c0_1.jpg")
    with pytest.raises(DataError, match=r"0003_c0_1.jpg is of camera 0.*csv:"):
        load_dataset(f"market1501:{market}")


# ---- synthetic


def test_synthetic_attaches_video_and_tracklet(market: Path) -> None:
    rows = [
        f"{path.relative_to(market).as_posix()},{1},{0},{i},{10 + i},x,y"
        for i, path in enumerate(sorted(market.rglob("*.jpg")))
    ]
    (market / "synthetic.csv").write_text("\n".join(["path,pid,camid,video,tracklet,split,role", *rows]))
    data = load_dataset(f"synthetic:{market}")
    assert data.name == "synthetic"
    truth = dict(zip(sorted(map(str, market.rglob("*.jpg"))), range(9), strict=True))
    for records in (data.train, data.query, data.gallery):
        assert records.extras["video"].tolist() == [truth[path] for path in records.path]
        assert (records.extras["tracklet"] - records.extras["video"] == 10).all()
    assert load_dataset(market) == data

    (market / "synthetic.csv").write_text("\n".join(["path,pid,camid,video,tracklet,split,role", *rows[:-1]]))
    with pytest.raises(DataError, match=r"1 images below .* not listed in synthetic.csv.*write the data set again"):
        load_dataset(f"synthetic:{market}")


def test_synthetic_without_sidecar(market: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"No synthetic.csv in (.|\n)*reidzoo data synth"):
        load_dataset(f"synthetic:{market}")


# ---- folder


def test_folder_of_identities(tree: Callable[..., Path]) -> None:
    data = load_dataset(f"folder:{tree('bert/1.jpg', 'anna/1.png', 'anna/2.JPG')}")
    assert data.train.pid.tolist() == [1, 1, 2]
    assert data.train.camid.tolist() == [-1, -1, -1]
    assert [path.rpartition("data/")[2] for path in data.train.path] == ["anna/1.png", "anna/2.JPG", "bert/1.jpg"]
    assert len(data.query) == len(data.gallery) == 0


def test_folder_with_splits_has_one_numbering_and_cameras(tree: Callable[..., Path]) -> None:
    root = tree("train/dora/x_c3_1.jpg", "query/bert/x_c0_1.jpg", "gallery/anna/x_c12.jpg", "gallery/bert/y_c2.jpg")
    data = load_dataset(f"folder:{root}")
    assert data.train.pid.tolist() == [3]
    assert data.query.pid.tolist() == [2]
    assert data.gallery.pid.tolist() == [1, 2]
    assert data.gallery.camid.tolist() == [12, 2]
    assert data.query.camid.tolist() == [0]


def test_folder_names_that_are_numbers_keep_their_meaning(tree: Callable[..., Path]) -> None:
    data = load_dataset(
        f"folder:{tree('query/0042/a.jpg', 'gallery/-1/a.jpg', 'gallery/0000/a.jpg', 'gallery/42/b.jpg')}"
    )
    assert data.query.pid.tolist() == [42]
    assert data.gallery.pid.tolist() == [-1, 0, 42]
    assert len(data.train) == 0


def test_folder_with_cameras_in_some_names_only(tree: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = tree("anna/x_c3_1.jpg", "anna/plain.jpg")
    assert load_dataset(f"folder:{root}").train.camid.tolist() == [-1, -1]
    assert f"1 of 2 file names carry no camera (_c<number>), for example {root}/anna/plain.jpg" in caplog.text


def test_folder_reports_what_it_leaves_out(tree: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    root = tree("loose.jpg", "anna/1.jpg", "anna/deeper/2.jpg")
    (root / "anna" / "notes.txt").touch()
    assert len(load_dataset(f"folder:{root}").train) == 1
    assert "1 entries left out, for example 'loose.jpg'" in caplog.text
    assert "anna: 2 entries left out, for example 'deeper'" in caplog.text


def test_folder_errors(tree: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/nowhere is missing"):
        load_dataset(f"folder:{tmp_path}/nowhere")
    root = tree("train/anna/1.jpg")
    (root / "query").mkdir()
    with pytest.raises(DataError, match=rf"{root}/query holds no folder with images(.|\n)*<root>/<person>/<image>"):
        load_dataset(f"folder:{root}")


# ---- csv


def test_csv(table: Callable[[str], Path]) -> None:
    file = table(
        "split,path,pid,camid,tracklet,note\ntrain,img/a.jpg,7,2,5,hm\ngallery,img/b.jpg,-1,0,6,\nquery,img/c.jpg,9,1,7,x\n"
    )
    data = load_dataset(f"csv:{file}")
    assert list(data.train.path) == [str(file.parent / "img/a.jpg")]
    assert (data.train.pid.tolist(), data.gallery.pid.tolist(), data.query.pid.tolist()) == ([7], [-1], [9])
    assert data.query.camid.tolist() == [1]
    assert {name: column.tolist() for name, column in data.gallery.extras.items()} == {"tracklet": [6]}
    assert load_dataset(file) == data


def test_csv_with_names_absolute_paths_and_a_byte_order_mark(table: Callable[[str], Path]) -> None:
    file = table("")
    image = file.parent / "img" / "b.jpg"
    file.write_text(f"path,pid,split\n\nimg/a.jpg,bert,train\n{image},anna,train\nimg/c.jpg,-1,gallery\n", "utf-8-sig")
    data = load_dataset(f"csv:{file}")
    assert data.train.pid.tolist() == [2, 1]
    assert data.train.path[1] == str(image)
    assert data.gallery.pid.tolist() == [-1]
    assert data.train.camid.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,id,split\n", r"list.csv: line 1 has no column 'pid'. Did you mean 'id'.* Found: path, id, split"),
        ("", r"list.csv: line 1 has no column 'path'"),
        ("path,pid,split\n", r"list.csv lists no image(.|\n)*path,pid,split,camid"),
        ("path,pid,split\nimg/a.jpg,1,train\nimg/b.jpg,1\n", r"line 3: expected 3 values \(path, .*, found 2"),
        ("path,pid,split\nimg/a.jpg,1,training\n", "line 2: split is 'training', expected one of train, query"),
        ("path,pid,split\nimg/a.jpg,,train\n", "line 2: pid is empty"),
        ("path,pid,split,camid\nimg/a.jpg,1,train,0\n\nimg/b.jpg,1,train,c2\n", "line 4: camid is 'c2', expected"),
        ("path,pid,split,video\nimg/a.jpg,1,train,1\nimg/b.jpg,1,train,x\n", "line 3: video is 'x', expected"),
        ("path,pid,split\nimg/a.jpg,1,train\nimg/z.jpg,1,train\n", r"1 of 2 images .* are missing: .*/img/z.jpg\. "),
        ("path,pid,split\nimg/a.jpg,-7,train\n", r"Identity -7 is below -1"),
    ],
)  # fmt: skip
def test_csv_errors(table: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(f"csv:{table(text)}")


def test_csv_leaves_out_text_columns_with_a_warning(
    table: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert load_dataset(f"csv:{table('path,pid,split,note' + chr(10) + 'img/a.jpg,1,train,blurry')}").train.extras == {}
    assert "column 'note' is left out: its values are not integers ('blurry')" in caplog.text


def test_csv_file_missing(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=rf"no file {tmp_path}/x.csv(.|\n)*path,pid,split"):
        load_dataset(f"csv:{tmp_path}/x.csv")


# ---- names


def test_list_and_pass_through(market: Path) -> None:
    assert {"csv", "folder", "market1501", "synthetic"} <= set(list_datasets())
    assert list_datasets("m*") == ["market1501", "msmt17"]
    data = load_dataset(market)
    assert isinstance(data, ReIDDataset)
    assert load_dataset(data) is data


def test_unknown_name() -> None:
    with pytest.raises(UnknownDatasetError, match=r"no data set 'market'. Did you mean 'market1501'"):
        load_dataset("market:/data")
    with pytest.raises(UnknownDatasetError, match=r"folder:"):
        load_dataset("msmt")


def test_path_without_a_layout(tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match=f"Write it as <layout>:{tmp_path}, for example folder:{tmp_path}"):
        load_dataset(str(tmp_path))
    with pytest.raises(UnknownDatasetError, match="is a path without"):
        load_dataset("C:\\data")
    with pytest.raises(DataNotFoundError, match=f"{tmp_path}/none is neither a folder nor a .csv file"):
        load_dataset(tmp_path / "none")


@pytest.mark.parametrize("spec", ["folder", "csv", "market1501:"])
def test_path_is_needed(spec: str) -> None:
    with pytest.raises(DataError, match=f"'{spec}' names no path. Write it as {spec.strip(':')}:/path"):
        load_dataset(spec)


def test_default_root_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REIDZOO_DATA", str(tmp_path / "none"))
    with pytest.raises(DataNotFoundError, match=rf"{tmp_path}/none/market1501(.|\n)*set REIDZOO_DATA"):
        load_dataset("market1501")


def test_paths_may_hold_colons_and_tildes(
    market: Path, tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(market.parent))
    assert load_dataset("market1501:~/market").root == market
    root = tree("a:b/anna/1.jpg")
    assert load_dataset(f"folder:{root}/a:b").root == root / "a:b"
