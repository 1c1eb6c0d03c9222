from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from reidzoo.data import ReIDDataset, load_dataset, load_splits, write_synthetic
from reidzoo.errors import DataError, DataNotFoundError

TEN_SPLITS = ("viper", "prid", "grid", "ilids")
TRAINING_ONLY = ("cuhk02", "cuhk_sysu")
SPLIT_FILE = {"viper": "splits.json", "prid": "splits_single_shot.json", "grid": "splits.json", "ilids": "splits.json"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """written(layout): synthetic people in that layout; not to be changed."""
    base = tmp_path_factory.mktemp("twins")
    return lambda name: write_synthetic(base / name, layout=name, identities=11, images=2, cameras=4, size=(24, 16))


@pytest.fixture
def twin(written: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """twin(layout): a copy to change."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(written(name), tmp_path / "copy"))

    return copy


@pytest.fixture
def full_size(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[[str], Path]:
    """full_size(name): a tree with the published number of files and no split file; every image is the same one."""
    image = write_image(tmp_path / "any.jpg", size=(8, 4)).read_bytes()

    def make(name: str) -> Path:
        names = {
            "viper": [f"cam_{c}/{i:03d}_{a}.bmp" for i in range(0, 1264, 2) for c, a in (("a", 45), ("b", 90))],
            "prid": [
                f"single_shot/cam_{c}/person_{i:04d}.png" for c, n in (("a", 385), ("b", 749)) for i in range(1, n + 1)
            ],
            "grid": [f"probe/{i:04d}_{1 + i % 8}_2500{i}_1_2_3_4.jpeg" for i in range(1, 251)]
            + [f"gallery/{i:04d}_{1 + (i + 3) % 8}_2500{i}_1_2_3_4.jpeg" for i in range(1, 251)]
            + [f"gallery/0000_{1 + i % 8}_{i:05d}_1_2_3_4.jpeg" for i in range(775)],
            "ilids": [f"images/{i:04d}{n:03d}.jpg" for i in range(1, 120) for n in range(1, 5)],
        }[name]
        for file in names:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        return tmp_path / name

    return make


def relative(data: ReIDDataset, split: str) -> list[str]:
    return [os.path.relpath(path, data.root) for path in getattr(data, split).path]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- the twins


@pytest.mark.parametrize("name", TEN_SPLITS + TRAINING_ONLY)
def test_a_twin_is_read_as_what_it_is(
    name: str, written: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = written(name)
    data = load_dataset(f"{name}:{root}")
    with open(root / "synthetic.csv", encoding="utf-8", newline="") as file:
        truth = {(r["split"], r["path"], int(r["pid"]), int(r["camid"])) for r in csv.DictReader(file)}
    if name == "ilids":  # its file names do not tell the camera
        truth = {(split, path, pid, -1) for split, path, pid, _ in truth}
    read = {
        (split, path, pid, camid)
        for split in ("train", "query", "gallery")
        for path, pid, camid in zip(
            relative(data, split), getattr(data, split).pid.tolist(), getattr(data, split).camid.tolist(), strict=True
        )
    }
    assert read == truth
    assert (data.name, data.root) == (name, root)
    assert len({split for split, *_ in truth}) == (3 if name in TEN_SPLITS else 1)
    assert not warnings(caplog)


@pytest.mark.parametrize("name", TEN_SPLITS)
def test_ten_splits_of_a_twin(name: str, written: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    root = written(name)
    splits = load_splits(f"{name}:{root}")
    assert len(splits) == 10
    assert splits[0].train == load_dataset(f"{name}:{root}").train
    assert splits[6].query == load_dataset(f"{name}@7:{root}").query
    people = set(splits[0].train.pid.tolist()) | set(splits[0].query.pid.tolist())
    for data in splits:
        train, query = set(data.train.pid.tolist()), data.query.pid.tolist()
        assert len(query) == len(set(query))  # single shot
        assert not train & set(query)
        assert train | set(query) == people
        assert set(data.gallery.pid.tolist()) - {0} == set(query)
    assert len({tuple(sorted(data.query.pid.tolist())) for data in splits}) > 5
    assert not warnings(caplog)


@pytest.mark.parametrize("name", TEN_SPLITS + TRAINING_ONLY)
def test_parent_and_child_folders_are_accepted(name: str, twin: Callable[[str], Path]) -> None:
    root = twin(name)
    places = {"viper": "viper", "prid": "prid_2011", "grid": "underground_reid", "ilids": "QMUL-iLIDS"}
    root = root.rename(root.with_name(places.get(name, name)))
    child = next(path for path in sorted(root.iterdir()) if path.is_dir())
    for path in (root.parent, child, *(path for path in sorted(child.iterdir()) if name == "prid")):
        assert load_dataset(f"{name}:{path}").root == root
    with pytest.raises(DataNotFoundError, match=rf"(?s)Expected:.*{name}:<root>"):
        load_dataset(f"{name}:{root.parent.parent}")


def test_load_splits_of_other_data(market: Path) -> None:
    with pytest.raises(DataError, match="without @: grid, ilids, prid, viper"):
        load_splits(f"market1501:{market}")
    with pytest.raises(DataError, match="'viper@3' is one split"):
        load_splits("viper@3")


# ---- own splits, on trees of the published size


@pytest.mark.parametrize("name", TEN_SPLITS)
def test_own_splits_have_the_published_counts(
    name: str, full_size: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    splits = load_splits(f"{name}:{full_size(name)}")
    counts = {
        "viper": ((632, 316), (316, 316), (316, 316)),
        "prid": ((200, 100), (100, 100), (649, 101)),
        "grid": ((250, 125), (125, 125), (900, 126)),
        "ilids": ((59 * 4, 59), (60, 60), (60, 60)),
    }[name]
    for data in splits:
        for split, expected in zip((data.train, data.query, data.gallery), counts, strict=True):
            assert (len(split), split.num_pids) == expected
    (message,) = warnings(caplog)  # and no difference from the published figures
    assert "own splits, not the published ones" in message
    assert len({tuple(data.train.pid.tolist()) for data in splits}) == 10


def test_own_splits_are_the_same_on_every_machine(full_size: Callable[[str], Path]) -> None:
    """The rule of the documentation, written again; users' results rest on it, so it may never change."""

    def by_chance(text: object) -> bytes:
        return hashlib.sha256(f"ilids 2 {text}".encode()).digest()

    root = full_size("ilids")
    data = load_dataset(f"ilids@2:{root}")
    people = sorted(range(1, 120), key=by_chance)
    assert people[:5] == [77, 50, 38, 46, 66]
    assert set(data.train.pid.tolist()) == set(people[:59])
    images = {pid: sorted((f"{pid:04d}{n:03d}" for n in range(1, 5)), key=by_chance) for pid in sorted(people[59:])}
    assert relative(data, "query") == [f"images/{names[0]}.jpg" for names in images.values()]
    assert relative(data, "gallery") == [f"images/{names[1]}.jpg" for names in images.values()]
    elsewhere = root.rename(root.with_name("elsewhere"))
    assert load_dataset(f"ilids@2:{elsewhere}").train.pid.tolist() == data.train.pid.tolist()


@pytest.mark.parametrize("name", TEN_SPLITS)
def test_a_partial_copy_is_reported(
    name: str, full_size: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = full_size(name)
    victim = {
        "viper": "cam_b/000_90.bmp", "prid": "single_shot/cam_a/person_0007.png",
        "grid": "gallery/0009_5_25009_1_2_3_4.jpeg", "ilids": "images/0005001.jpg",
    }[name]  # fmt: skip
    (root / victim).unlink()
    load_dataset(f"{name}:{root}")
    text = "\n".join(warnings(caplog))
    if name == "ilids":
        assert "holds 475 images of 119 people; published are 476 of 119" in text
    else:
        assert "1 entries left out" in text
        assert "no image in the other view" in text
        assert "are missing" in text


def test_prid_numbers_above_200_are_other_people_in_each_camera(full_size: Callable[[str], Path]) -> None:
    data = load_dataset(f"prid:{full_size('prid')}")
    assert (data.gallery.pid == 0).sum() == 549
    assert set(data.gallery.camid.tolist()) == {1}
    assert set(data.query.camid.tolist()) == {0}
    assert not any(int(path[-8:-4]) > 200 for path in [*data.train.path, *data.query.path])


def test_ilids_leaves_out_test_people_with_one_image(
    full_size: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = full_size("ilids")
    (root / "images").rename(root / "Persons")
    person = load_dataset(f"ilids:{root}").query.pid[0]
    for number in (2, 3, 4):
        (root / "Persons" / f"{person:04d}{number:03d}.jpg").unlink()
    data = load_dataset(f"ilids:{root}")
    assert person not in data.query.pid
    assert len(data.query) == len(data.gallery) == 59
    assert not set(data.query.path) & set(data.gallery.path)
    assert any("a test person needs two images" in text for text in warnings(caplog))


# ---- published splits


def test_viper_reads_the_published_folders(twin: Callable[[str], Path], written: Callable[[str], Path]) -> None:
    root, truth = twin("viper"), load_splits(f"viper:{written('viper')}")
    for n, data in enumerate(truth, start=1):
        for split in ("train", "query", "gallery"):
            records = getattr(data, split)
            (folder := root / f"split_{n}a" / split).mkdir(parents=True)
            for path, pid, camid in zip(records.path, records.pid.tolist(), records.camid.tolist(), strict=True):
                angle = int(Path(path).stem.partition("_")[2])
                shutil.copyfile(path, folder / f"p{pid:03d}_c{camid + 1}_d{angle:03d}.png")
    (root / "splits.json").write_text("not looked at")
    for data, expected in zip(load_splits(f"viper:{root}"), truth, strict=True):
        for split in ("train", "query", "gallery"):
            found, known = getattr(data, split), getattr(expected, split)
            assert sorted(zip(found.pid.tolist(), found.camid.tolist(), strict=True)) == sorted(
                zip(known.pid.tolist(), known.camid.tolist(), strict=True)
            )
    shutil.rmtree(root / "split_10a")
    with pytest.raises(DataNotFoundError, match="split_10a is missing"):  # never silently an own split instead
        load_dataset(f"viper@10:{root}")
    for name in ("cam_a", "cam_b"):
        shutil.rmtree(root / name)
    assert load_dataset(f"viper:{root / 'split_3a'}").root == root


def test_viper_converted_to_png_still_fits_its_split_file(twin: Callable[[str], Path]) -> None:
    root = twin("viper")
    before = load_dataset(f"viper:{root}")
    for path in sorted(root.glob("cam_*/*.bmp")):
        path.rename(path.with_suffix(".png"))
    after = load_dataset(f"viper:{root}")
    assert after.query.pid.tolist() == before.query.pid.tolist()


def write_mat(root: Path, trials: list[list[int]], *, cells: bool = True) -> None:
    structures = [{"first": 1.0, "second": 2.0, "third": np.array([ids], dtype=np.uint8)} for ids in trials]
    value = np.empty((1, len(structures)), dtype=object)
    if cells:
        for i, structure in enumerate(structures):
            value[0, i] = structure
    else:
        value = np.array(
            [[(1.0, 2.0, s["third"]) for s in structures]], dtype=[(n, object) for n in ("first", "second", "third")]
        )
    scipy.io.savemat(root / "features_and_partitions.mat", {"trainIdxAll": value, "features": np.zeros((2, 2))})


@pytest.mark.parametrize("cells", [True, False])
def test_grid_reads_the_published_partitions(
    twin: Callable[[str], Path], caplog: pytest.LogCaptureFixture, cells: bool
) -> None:
    root = twin("grid")
    listed = load_splits(f"grid:{root}")
    (root / "splits.json").unlink()
    write_mat(root, [np.unique(data.train.pid).tolist() for data in listed], cells=cells)
    for data, expected in zip(load_splits(f"grid:{root}"), listed, strict=True):
        for split in ("train", "query", "gallery"):
            assert set(getattr(data, split).path) == set(getattr(expected, split).path)
    assert not warnings(caplog)


def test_grid_with_a_damaged_mat_file(twin: Callable[[str], Path]) -> None:
    root = twin("grid")
    (root / "splits.json").unlink()
    mat = root / "features_and_partitions.mat"
    write_mat(root, [[1, 2, 3]] * 4)
    assert set(load_dataset(f"grid@4:{root}").train.pid.tolist()) == {1, 2, 3}
    with pytest.raises(DataError, match="no training persons of trial 5"):
        load_dataset(f"grid@5:{root}")
    whole = mat.read_bytes()
    for content in (b"", b"MATLAB 5.0 and then nothing", whole[:300]):
        mat.write_bytes(content)
        with pytest.raises(DataError, match=r"features_and_partitions\.mat cannot be read"):
            load_dataset(f"grid:{root}")
    for value in ({"other": 1.0}, {"trainIdxAll": np.ones((1, 10))}, {"trainIdxAll": {"a": 1.0, "b": 2.0}}):
        scipy.io.savemat(mat, value)
        with pytest.raises(DataError, match="no training persons of trial 1: expected 'trainIdxAll' to hold"):
            load_dataset(f"grid:{root}")


def test_grid_probe_of_nobody_is_no_query(
    twin: Callable[[str], Path], write_image: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = twin("grid")
    (root / "splits.json").unlink()
    write_image(root / "probe" / "0000_1_00001_1_2_3_4.jpeg")
    data = load_dataset(f"grid:{root}")
    assert 0 in data.gallery.pid
    assert 0 not in data.query.pid
    assert any("0000_1_00001_1_2_3_4.jpeg" in text for text in warnings(caplog))


def test_grid_accepts_both_names_of_the_split_file_and_paths_of_another_machine(twin: Callable[[str], Path]) -> None:
    root = twin("grid")
    expected = load_dataset(f"grid:{root}")
    splits = json.loads((root / "splits.json").read_text())
    assert not splits[0]["train"][0][0].startswith(str(root))
    for split in splits:
        for part in ("train", "query", "gallery"):
            split[part] = [["D:\\reid\\" + path.replace("/", "\\"), 0, 0] for path, *_ in split[part]]
    (root / "splits.json").unlink()
    (root / "splits_single_shot.json").write_text(json.dumps(splits))
    data = load_dataset(f"grid:{root}")
    assert (data.train, data.query, data.gallery) == (expected.train, expected.query, expected.gallery)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "is no JSON file"),
        ("[" * 100_000, "is no JSON file"),
        ('{"train": []}', "should hold a list of objects"),
        ("[1, 2]", "should hold a list of objects"),
        ("[]", "holds 0 splits; there is no split 1"),
        ("[{}]", "has no list 'train'; it has nothing"),
        ('[{"train": {"a": 1}}]', "has no list 'train'; it has 'train'"),
        ('[{"train": [null]}]', "lists None under 'train'"),
        ('[{"train": [[]]}]', "lists .* under 'train'"),
    ],
)
@pytest.mark.parametrize("name", TEN_SPLITS)
def test_damaged_split_files(name: str, text: str, message: str, twin: Callable[[str], Path]) -> None:
    root = twin(name)
    (root / SPLIT_FILE[name]).write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(f"{name}:{root}")


def test_listed_images_and_people_that_are_missing(
    twin: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = twin("ilids")
    data = load_dataset(f"ilids:{root}")
    Path(data.train.path[0]).unlink()
    (root / "synthetic.json").unlink()  # now a real copy, as far as the library knows
    assert len(load_dataset(f"ilids:{root}").train) == len(data.train) - 1
    text = "\n".join(warnings(caplog))
    assert f"1 of the {len(data.train)} train images of this split are missing" in text
    assert "published are 476 of 119" in text
    for path in data.query.path:
        Path(path).unlink()
    with pytest.raises(DataError, match=r"query images, such as .*; none of them is below"):
        load_dataset(f"ilids:{root}")


def test_prid_split_files_name_people(twin: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    root = twin("prid")
    file = root / "splits_single_shot.json"
    file.write_text(json.dumps([{"train": ["person_0001", 2, "3"], "test": [4, 5, 150]}]))
    data = load_dataset(f"prid:{root}")
    assert np.unique(data.train.pid).tolist() == [1, 2, 3]
    assert data.query.pid.tolist() == [4, 5]
    assert any("holds 1 splits, not 10" in text for text in warnings(caplog))
    assert any("1 entries left out, for example '150': the split lists these persons" in t for t in warnings(caplog))
    file.write_text(json.dumps([{"train": ["anna"], "test": [4]}]))
    with pytest.raises(DataError, match="'train' lists 'anna'; expected persons' numbers"):
        load_dataset(f"prid:{root}")


# ---- CUHK02 and CUHK-SYSU


def test_cuhk02_pairs_number_their_people_and_cameras_apart(
    tmp_path: Path, write_image: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("P1/cam1/001_001.png", "P1/cam2/001_002.png", "P2/cam1/001_001.png", "P2/cam2/001_009.png"):
        write_image(tmp_path / "cuhk02" / name)
    (tmp_path / "cuhk02" / "P1" / "cam1" / "readme.txt").write_text("not an image")
    data = load_dataset(f"cuhk02:{tmp_path}")
    assert data.train.pid.tolist() == [10001, 10001, 20001, 20001]
    assert data.train.camid.tolist() == [0, 1, 2, 3]
    text = "\n".join(warnings(caplog))
    assert "holds P1, P2 only" in text
    assert "'readme.txt'" in text
    assert "train has 4 images, published are 7,264" in text


def test_cuhk_sysu_names(tmp_path: Path, write_image: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    for name in ("p00012_n01_s00345_hard0.png", "p11934_n10_s18184_hard1.jpg", "p1_s2.png"):
        write_image(tmp_path / "CUHK-SYSU" / "cropped_image" / name)
    data = load_dataset(f"cuhk_sysu:{tmp_path}")
    assert data.train.pid.tolist() == [12, 11934]
    assert data.train.camid.tolist() == [345, 18184]
    assert any("1 entries left out, for example 'p1_s2.png'" in text for text in warnings(caplog))


@pytest.mark.parametrize("name", TEN_SPLITS + TRAINING_ONLY)
def test_files_with_other_names_are_reported(
    name: str, twin: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = twin(name)
    before = load_dataset(f"{name}:{root}").summary()
    folder = min(path.parent for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".bmp", ".jpeg"))
    for other in ("notes.txt", "99999999999999999999_1.png", "\u0663\u0663_1.png"):
        (folder / other).write_bytes(b"")
    assert load_dataset(f"{name}:{root}").summary() == before
    (message,) = warnings(caplog)
    assert str(folder) in message
    assert "3 entries left out" in message
