"""Market-1501's options, MSMT17, DukeMTMC-reID, CUHK03 and DG-Market, read from real files."""

from __future__ import annotations

import csv
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from reidzoo.data import Records, ReIDDataset, dataset_info, list_datasets, load_dataset, write_synthetic
from reidzoo.data._layouts import LAYOUTS
from reidzoo.errors import DataError, DataNotFoundError, MissingExtraError, UnknownDatasetError

WriteImage = Callable[..., Path]
NAMES = ("market1501_gt_bbox", "dukemtmc", "msmt17", "msmt17_v2", "cuhk03", "cuhk03_np", "dgmarket")
KEEPS_PIDS = set(NAMES) - {"msmt17", "msmt17_v2"}  # MSMT17 numbers its people anew
MSMT = r"(\d{4})/\2_\d{3}_\d{2}_\d{4}(morning|noon|afternoon)_\d{4}_\d(_ex)?\.jpg"
# What a file is called in the publication of each data set.
PATTERNS = {
    "dukemtmc": r"(bounding_box_train|query|bounding_box_test)/\d{4}_c\d_f\d{7}\.jpg",
    "msmt17": r"(train|test)/" + MSMT,
    "msmt17_v2": r"mask_(train|test)_v2/" + MSMT,
    "cuhk03": r"images_detected/[1-5]_\d{3}_(1_0[1-5]|2_(0[6-9]|10))\.png",
    "cuhk03_np": r"detected/(bounding_box_train|query|bounding_box_test)/\d{4}_c[12]_\d+\.png",
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The synthetic people in a layout, written once. Not to be changed."""
    folder = tmp_path_factory.mktemp("twins")

    def twin(name: str) -> Path:
        return write_synthetic(folder / name, layout=name, identities=8, images=2, size=(24, 16), seed=3)

    return twin


@pytest.fixture
def copy(twins: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A twin that a test may change; without synthetic.json it passes for the real thing."""

    def make(name: str) -> Path:
        root = Path(shutil.copytree(twins(name), tmp_path / "copy" / name))
        (root / "synthetic.json").unlink()
        return root

    return make


def truth(root: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """By split and full path, (pid, camid) as drawn."""
    rows: dict[str, dict[str, tuple[int, int]]] = {"train": {}, "query": {}, "gallery": {}}
    with open(root / "synthetic.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["split"]][str(root / row["path"])] = (int(row["pid"]), int(row["camid"]))
    return rows


def rows(records: Records) -> dict[str, tuple[int, int]]:
    return dict(zip(records.path, zip(records.pid.tolist(), records.camid.tolist(), strict=True), strict=True))


def spec(name: str, root: Path) -> str:
    return f"{LAYOUTS[name].reader or name}:{root}"


def equal(a: ReIDDataset, b: ReIDDataset) -> bool:
    return all(getattr(a, split) == getattr(b, split) for split in ("train", "query", "gallery", "multi_query"))


# ---- all of them


@pytest.mark.parametrize("name", NAMES)
def test_twin_is_read_as_it_was_drawn(
    name: str, twins: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = twins(name)
    data = load_dataset(spec(name, root))
    assert not caplog.records  # nothing left out, nothing missing
    new_pid: dict[int, int] = {}
    for split, drawn in truth(root).items():
        found = rows(getattr(data, split))
        assert found.keys() == drawn.keys()
        assert list(getattr(data, split).path) == sorted(drawn) or name.startswith("msmt17")  # there, the lists' order
        for path, (pid, camid) in drawn.items():
            assert found[path][1] == (-1 if name == "dgmarket" else camid)
            assert new_pid.setdefault(pid, found[path][0]) == found[path][0]
        assert re.fullmatch(PATTERNS.get(name, ".*"), str(Path(next(iter(drawn), root)).relative_to(root)))
    assert len(set(new_pid.values())) == len(new_pid)  # different people stay different
    assert min(new_pid.values()) >= 1 or name.startswith("market")
    if name in KEEPS_PIDS:
        assert all(pid == new for pid, new in new_pid.items())


@pytest.mark.parametrize("name", PATTERNS)
def test_twin_has_the_published_file_names(name: str, twins: Callable[[str], Path]) -> None:
    root = twins(name)
    for path in (path for split in truth(root).values() for path in split):
        assert re.fullmatch(PATTERNS[name], Path(path).relative_to(root).as_posix())
    if name in ("msmt17", "msmt17_v2"):
        for file in root.glob("list_*.txt"):
            assert re.fullmatch(r"(\d{4}/\d{4}_\d{3}_\d{2}_\d{4}[a-z]+_\d{4}_\d(_ex)?\.jpg \d+\n)+", file.read_text())
        assert "_ex.jpg" in (root / "list_train.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_found_from_the_parent_under_its_usual_name(
    name: str, copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = LAYOUTS[name].reader or name
    usual = {"dgmarket": "DG-Market", "dukemtmc": "DukeMTMC-reID", "msmt17_v2": "MSMT17_V2"}.get(name, reader)
    root = copy(name)
    root = root.rename(root.parent / usual)
    expected = load_dataset(f"{reader}:{root}")
    assert expected.root == root
    assert equal(load_dataset(f"{reader}:{root.parent}"), expected)
    monkeypatch.setenv("REIDZOO_DATA", str(root.parent))
    assert equal(load_dataset(reader), expected)
    if reader != "dgmarket":
        child = next(folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name != "labeled")
        assert equal(load_dataset(f"{reader}:{child}"), expected)


@pytest.mark.parametrize("reader", ["market1501", "msmt17", "dukemtmc", "cuhk03", "dgmarket"])
def test_wrong_root_says_what_was_looked_for(reader: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as error:
        load_dataset(f"{reader}:{tmp_path}")
    for part in (str(tmp_path), "photos/", "<root>/", f"{reader}:<root>", "REIDZOO_DATA"):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["dukemtmc", "msmt17", "cuhk03_np"])
def test_wrong_root_guesses_the_folder_below(name: str, copy: Callable[[str], Path]) -> None:
    root = copy(name)
    root = root.rename(root.parent / "from_the_archive")
    with pytest.raises(DataNotFoundError, match=f"{root} would do: give that folder"):
        load_dataset(spec(name, root.parent))


@pytest.mark.parametrize("name", NAMES)
def test_partial_copy_is_a_warning_with_the_missing_counts(
    name: str, copy: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    data = load_dataset(spec(name, copy(name)))
    reader = LAYOUTS[name].reader or name
    info = dataset_info(reader)
    for split, counts in info.published[info.variants[0] if info.variants else ""].items():
        missing = counts.images - len(getattr(data, split))
        assert f"{split} has {len(getattr(data, split))} images, published are {counts.images:,}: {missing:,}" in (
            caplog.text
        )


def test_published_figures() -> None:
    figures = {
        f"{name}@{variant}": [tuple(counts) for counts in splits.values()]
        for name in ("market1501", "msmt17", "dukemtmc", "cuhk03", "dgmarket")
        for variant, splits in dataset_info(name).published.items()
    }
    market = [(12936, 751, 6), (3368, 750, 6)]
    assert figures == {
        "market1501@standard": [*market, (3819 + 2798 + 13115, 751, 6)],
        "market1501@500k": market,
        "msmt17@trainval": [(32621, 1041, 15), (11659, 3060, 15), (82161, 3060, 15)],
        "msmt17@train": [(30248, 1041, 15), (11659, 3060, 15), (82161, 3060, 15)],
        "dukemtmc@": [(16522, 702, 8), (2228, 702, 8), (17661, 1110, 8)],
        "cuhk03@detected": [(7365, 767, 2), (1400, 700, 2), (5332, 700, 2)],
        "cuhk03@labeled": [(7368, 767, 2), (1400, 700, 2), (5328, 700, 2)],
        "dgmarket@": [(128307, None, None)],
    }


def table_of_data_sets() -> str:
    """All data sets with their default variant's figures, as Markdown."""
    rows = ["| name | what it is | variants | train | query | gallery |", "|---|---|---|---|---|---|"]
    for name in list_datasets():
        info = dataset_info(name)
        published = info.published.get(info.variants[0] if info.variants else "", {})
        figures = [published.get(split) for split in ("train", "query", "gallery")]
        cells = [f"{c.images:,}" + ("" if c.ids is None else f" / {c.ids:,}") if c else "" for c in figures]
        variants = info.variants if len(info.variants) <= 4 else (info.variants[0], "...", info.variants[-1])
        shown = ", ".join("..." if v == "..." else f"`@{v}`" for v in variants)
        rows.append(f"| `{name}` | {info.about.rstrip('.')} | {shown} | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_table_in_the_docs() -> None:
    """Put right by ``REIDZOO_WRITE_DOCS=1 pytest tests/data/test_camera_networks.py -k table``."""
    page = Path(__file__).parents[2] / "docs" / "data.md"
    text, expected = page.read_text(encoding="utf-8"), table_of_data_sets()
    match = re.search(r"<!-- table: data sets -->\n(.*?)<!-- end -->", text, re.S)
    assert match
    if os.environ.get("REIDZOO_WRITE_DOCS") == "1":
        page.write_text(text[: match.start(1)] + f"\n{expected}\n\n" + text[match.end(1) :], encoding="utf-8")
        return
    assert match[1].strip() == expected


# ---- Market-1501


def test_multi_query_are_the_boxes_of_the_queries(twins: Callable[[str], Path]) -> None:
    root = twins("market1501_gt_bbox")
    data = load_dataset(f"market1501:{root}")
    drawn = truth(root)
    queries = set(drawn["query"].values())
    of_queries = [*drawn["query"].items(), *((p, who) for p, who in drawn["gallery"].items() if who in queries)]
    expected = {str(root / "gt_bbox" / Path(path).name): who for path, who in of_queries}
    assert rows(data.multi_query) == expected
    assert len(expected) < len(list((root / "gt_bbox").iterdir()))  # it has those of training persons, too
    shutil.copytree(root, root.parent / "without_boxes", ignore=shutil.ignore_patterns("gt_bbox"))
    assert len(load_dataset(f"market1501:{root.parent}/without_boxes").multi_query) == 0


def test_multi_query_is_of_the_query_camera(copy: Callable[[str], Path]) -> None:
    root = copy("market1501_gt_bbox")
    before = load_dataset(f"market1501:{root}")
    path, who = next(iter(rows(before.query).items()))
    Path(path).unlink()
    after = load_dataset(f"market1501:{root}")
    assert who[0] in after.query.pid  # by another camera
    assert rows(after.multi_query) == {p: w for p, w in rows(before.multi_query).items() if w != who}
    assert len(after.multi_query) < len(before.multi_query)


def test_500k_distractors(market: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataNotFoundError, match=rf"{market}/images is missing.*bounding_box_train/.*leave @500k out"):
        load_dataset(f"market1501@500k:{market}")
    (market / "images").mkdir()
    with pytest.raises(DataError, match="images holds no image"):
        load_dataset(f"market1501@500k:{market}")
    for name in ("0000_c3s1_000001_00.jpg", "0003_c1s1_1.jpg", "plain.jpg", "readme.txt"):
        write_image(market / "images" / name) if name.endswith("jpg") else (market / "images" / name).touch()
    standard, data = load_dataset(f"market1501:{market}"), load_dataset(f"market1501@500k:{market}")
    assert (data.train, data.query) == (standard.train, standard.query)
    assert data.gallery.select(np.arange(len(standard.gallery))) == standard.gallery
    added = data.gallery.select(np.arange(len(standard.gallery), len(data.gallery)))
    assert [Path(path).name for path in added.path] == ["0000_c3s1_000001_00.jpg", "0003_c1s1_1.jpg", "plain.jpg"]
    assert (added.pid.tolist(), added.camid.tolist()) == ([0, 0, 0], [2, 0, -1])  # a distractor, whatever its name
    assert "images: 1 entries left out, for example 'readme.txt'" in caplog.text
    with pytest.raises(UnknownDatasetError, match=r"no variant '500'. Did you mean '500k'"):
        load_dataset(f"market1501@500:{market}")


def test_names_with_numbers_beyond_any_data_set_are_left_out(
    market: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_dataset(f"market1501:{market}").query
    write_image(market / "query" / f"{10**30}_c1.jpg")
    write_image(market / "query" / f"0003_c{10**30}.jpg")
    assert load_dataset(f"market1501:{market}").query == before
    assert "query: 2 entries left out" in caplog.text


# ---- MSMT17


def lists(root: Path) -> dict[str, list[str]]:
    return {n: (root / f"list_{n}.txt").read_text().splitlines() for n in ("train", "val", "query", "gallery")}


def test_msmt17_variants(twins: Callable[[str], Path]) -> None:
    root = twins("msmt17")
    both, train = load_dataset(f"msmt17:{root}"), load_dataset(f"msmt17@train:{root}")
    assert equal(both, load_dataset(f"msmt17@trainval:{root}"))
    listed = lists(root)
    assert [f"{p.removeprefix(f'{root}/train/')} {pid - 1}" for p, (pid, _) in rows(both.train).items()] == [
        *listed["train"], *listed["val"]
    ]  # fmt: skip
    assert [f"{p.removeprefix(f'{root}/train/')} {pid - 1}" for p, (pid, _) in rows(train.train).items()] == (
        listed["train"]
    )
    assert set(both.train.pid.tolist()) == set(train.train.pid.tolist()) == {1, 2, 3, 4}
    assert set(both.query.pid.tolist()) == set(both.gallery.pid.tolist()) == {5, 6, 7, 8}
    assert (train.query, train.gallery) == (both.query, both.gallery)
    assert load_dataset(root) == both or equal(load_dataset(root), both)  # recognised


def test_msmt17_camera_is_the_third_field(tmp_path: Path, write_image: WriteImage) -> None:
    """Two digits count, an ending _ex does no harm, and labels are the lists', not the folders'."""
    for name, line in {
        "train": "0000/0000_045_12_0303morning_0006_2.jpg 1",
        "val": "0007/0007_001_03_0303noon_0006_0_ex.jpg 0",
        "query": "0000/0000_000_15_0303noon_0006_0.jpg 0",
        "gallery": "0000/0000_001_01_0303noon_0006_0.jpg 0",
    }.items():
        folder = "mask_train_v2" if name in ("train", "val") else "mask_test_v2"
        write_image(tmp_path / folder / line.split()[0])
        (tmp_path / f"list_{name}.txt").write_text(line + "\n")
    data = load_dataset(f"msmt17:{tmp_path}")
    assert (data.train.pid.tolist(), data.train.camid.tolist()) == ([2, 1], [11, 2])
    assert (data.query.pid.tolist(), data.query.camid.tolist()) == ([3], [14])
    assert (data.gallery.pid.tolist(), data.gallery.camid.tolist()) == ([3], [0])


def test_msmt17_reports_missing_and_unlisted_images(
    copy: Callable[[str], Path], write_image: WriteImage, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy("msmt17_v2")
    whole = load_dataset(f"msmt17:{root}")
    caplog.clear()
    gone, moved = Path(whole.query.path[0]), Path(whole.query.path[1])
    gone.unlink()
    Image.open(moved).save(moved.with_suffix(".png"))
    moved.unlink()
    extra = write_image(gone.with_name("9999_000_01_0303noon_0001_0.jpg"))
    data = load_dataset(f"msmt17:{root}")
    assert list(data.query.path) == [str(moved.with_suffix(".png")), *list(whole.query.path)[2:]]
    assert data.gallery == whole.gallery
    relative = gone.relative_to(root / "mask_test_v2").as_posix()
    assert f"1 entries left out, for example {relative!r}: the lists name them, but they are missing" in caplog.text
    assert f"1 entries left out, for example '{extra}': images that are in no list" in caplog.text


def test_msmt17_errors(copy: Callable[[str], Path]) -> None:
    root = copy("msmt17")
    (root / "list_val.txt").rename(root / "other.txt")
    with pytest.raises(DataNotFoundError, match=rf"list {root}/list_val.txt is missing.*other.txt"):
        load_dataset(f"msmt17:{root}")
    for text in ("0000/0000_000_01_x.jpg", "0000/0000_000_01_x.jpg one", "0000/image.jpg 3", "0000/0000_0_00_x.jpg 0"):
        (root / "list_val.txt").write_text(f"\n{text}\n")
        with pytest.raises(DataError, match=f"list_val.txt, line 2: expected an image.*found '{text}'"):
            load_dataset(f"msmt17:{root}")
    (root / "list_val.txt").write_text("")
    for name in ("train", "query"):
        text = (root / f"list_{name}.txt").read_text()
        (root / f"list_{name}.txt").write_text("\n")
        with pytest.raises(DataError, match=f"list_{name}.txt lists no image"):
            load_dataset(f"msmt17:{root}")
        (root / f"list_{name}.txt").write_text(text)
    shutil.rmtree(root / "test")
    with pytest.raises(DataNotFoundError, match=r"has the lists, but neither train/ and test/.* holds train/"):
        load_dataset(f"msmt17:{root}")
    (root / "test").mkdir()
    with pytest.raises(DataError, match=rf"None of the query images in the lists is below {root}/test"):
        load_dataset(f"msmt17:{root}")


def test_msmt17_in_the_style_of_market(tmp_path: Path, write_image: WriteImage) -> None:
    """Person 0 is a person there, and numbers start again for test."""
    for name in ("train/0000_c15_0001.jpg", "train/0004_c1_0001.jpg", "test/0000_c2_0001.jpg", "test/0001_c11_1.jpg"):
        write_image(tmp_path / f"bounding_box_{name}")
    write_image(tmp_path / "query/0000_c1_0002.jpg")
    data = load_dataset(f"msmt17:{tmp_path}")
    assert (data.train.pid.tolist(), data.train.camid.tolist()) == ([1, 5], [14, 0])
    assert (data.query.pid.tolist(), data.query.camid.tolist()) == ([6], [0])
    assert (data.gallery.pid.tolist(), data.gallery.camid.tolist()) == ([6, 7], [1, 10])
    with pytest.raises(DataError, match=rf"no list_train.txt.*train and val together: write msmt17:{tmp_path}"):
        load_dataset(f"msmt17@train:{tmp_path}")


# ---- CUHK03


def raw_file(root: Path, kind: str, file: Path) -> None:
    """Write the images of a twin as MATLAB 7.3 writes them: transposed, in cells of cells, empty cells as two zeros."""
    paths = {path.stem: path for path in (root / f"images_{kind}").iterdir()}
    with h5py.File(file, "w") as mat:
        refs = mat.create_group("#refs#")

        def cell(value: np.ndarray) -> h5py.Reference:
            return refs.create_dataset(f"{len(refs)}", data=value).ref

        pairs = []
        for pair in range(1, 6):
            people = max((int(stem[2:5]) for stem in paths if stem[0] == str(pair)), default=1)
            slots = np.empty((10, people), dtype=h5py.ref_dtype)
            for person in range(people):
                for slot in range(10):
                    path = paths.get(f"{pair}_{person + 1:03d}_{slot // 5 + 1}_{slot + 1:02d}")
                    empty = np.zeros(2, dtype=np.uint64)
                    slots[slot, person] = cell(empty if path is None else np.asarray(Image.open(path)).T)
            pairs.append(refs.create_dataset(f"pair{pair}", data=slots, dtype=h5py.ref_dtype).ref)
        mat.create_dataset(kind, data=np.array([pairs], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)


def test_cuhk03_from_the_raw_file(copy: Callable[[str], Path]) -> None:
    root = copy("cuhk03")
    expected = load_dataset(f"cuhk03:{root}")
    pixels = {path: np.asarray(Image.open(path)) for path in expected.train.path}
    (root / "cuhk03_release").mkdir()
    raw_file(root, "detected", root / "cuhk03_release" / "cuhk-03.mat")
    shutil.rmtree(root / "images_detected")
    assert equal(load_dataset(f"cuhk03:{root}"), expected)
    assert all(np.array_equal(np.asarray(Image.open(path)), pixels[path]) for path in pixels)
    with pytest.MonkeyPatch.context() as patch:  # the second time, nothing is extracted
        patch.setattr(h5py, "File", None)
        assert equal(load_dataset(f"cuhk03:{root}"), expected)


@pytest.mark.parametrize("damage", ["cut", "noise", "other"])
def test_cuhk03_from_a_damaged_raw_file(copy: Callable[[str], Path], damage: str) -> None:
    root = copy("cuhk03")
    file = root / "cuhk-03.mat"
    raw_file(root, "detected", file)
    whole = file.read_bytes()
    if damage == "other":
        with h5py.File(file, "w") as mat:
            mat["detected"] = np.zeros((1, 5))
    else:
        file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"\0" * len(whole))
    shutil.rmtree(root / "images_detected")
    with pytest.raises(DataError, match=r"cuhk-03.mat"):
        load_dataset(f"cuhk03:{root}")
    assert not [path.name for path in root.iterdir() if "images_detected" in path.name]  # nothing half there


def test_cuhk03_variants(copy: Callable[[str], Path]) -> None:
    for name, folder in (("cuhk03", "images_labeled"), ("cuhk03_np", "labeled")):
        root = copy(name)
        detected, labeled = load_dataset(f"cuhk03@detected:{root}"), load_dataset(f"cuhk03@labeled:{root}")
        assert equal(load_dataset(f"cuhk03:{root}"), detected)
        assert all(path.startswith(f"{root}/{folder}/") for path in labeled.gallery.path)
        assert labeled.gallery.pid.tolist() == detected.gallery.pid.tolist()
    with pytest.raises(DataError, match=f"holds the labeled boxes. Write it as cuhk03@labeled:{root}/labeled"):
        load_dataset(f"cuhk03:{root}/labeled")
    assert equal(load_dataset(f"cuhk03@labeled:{root}/labeled"), labeled)
    with pytest.raises(UnknownDatasetError, match="Did you mean 'labeled'"):
        load_dataset(f"cuhk03@labelled:{root}")


def test_cuhk03_index_counts_from_one(copy: Callable[[str], Path]) -> None:
    root = copy("cuhk03")
    names = sorted(path.name for path in (root / "images_detected").iterdir())
    protocol = scipy.io.loadmat(root / "cuhk03_new_protocol_config_detected.mat")
    assert protocol["filelist"].shape == protocol["labels"].shape == (len(names), 1)
    first = names[int(protocol["query_idx"].min()) - 1]
    assert Path(load_dataset(f"cuhk03:{root}").query.path[0]).name == first


def test_cuhk03_without_images(copy: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    root = copy("cuhk03")
    gone = sorted((root / "images_detected").iterdir())[0]
    gone.unlink()
    load_dataset(f"cuhk03:{root}")
    assert f"1 entries left out, for example {gone.name!r}: the lists name them" in caplog.text
    shutil.rmtree(root / "images_detected")
    with pytest.raises(DataNotFoundError, match=r"neither images_detected/ nor cuhk03_release/cuhk-03.mat"):
        load_dataset(f"cuhk03:{root}")
    (root / "images_detected").mkdir()
    with pytest.raises(DataError, match="images_detected has none of the train images"):
        load_dataset(f"cuhk03:{root}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_idx": [0, 1]}, "index is not from 1"),
        ({"train_idx": [1, 10**6]}, "index is not from 1"),
        ({"train_idx": [1, 1]}, "in a split twice"),
        ({"labels": [1, 2]}, "differ in length"),
        ({"filelist": np.array(["a.png"], dtype=object)}, "differ in length"),
        ({"query_idx": "text"}, "query_idx is no list of integers"),
        ({"query_idx": [1.5]}, "query_idx is no list of integers"),
        ({"query_idx": [np.nan]}, "query_idx is no list of integers"),
        ({"query_idx": [1e300]}, "query_idx is no list of integers"),
        ({"labels": np.ones((2, 2))}, "labels is no list of integers"),
        ({"query_idx": None}, "has no query_idx"),
    ],
)  # fmt: skip
def test_cuhk03_protocol_that_contradicts_itself(copy: Callable[[str], Path], change: dict, message: str) -> None:
    root = copy("cuhk03")
    file = root / "cuhk03_new_protocol_config_detected.mat"
    protocol = {k: v for k, v in scipy.io.loadmat(file).items() if not k.startswith("_")} | change
    scipy.io.savemat(file, {k: v for k, v in protocol.items() if v is not None})
    with pytest.raises(DataError, match=message):
        load_dataset(f"cuhk03:{root}")


def test_cuhk03_protocol_whose_cameras_are_not_the_views(copy: Callable[[str], Path]) -> None:
    root = copy("cuhk03")
    file = root / "cuhk03_new_protocol_config_detected.mat"
    protocol = scipy.io.loadmat(file)
    scipy.io.savemat(file, {k: 3 - v if k == "camId" else v for k, v in protocol.items() if not k.startswith("_")})
    with pytest.raises(DataError, match="camId differs from the view in a name"):
        load_dataset(f"cuhk03:{root}")


def test_cuhk03_damaged_protocol(copy: Callable[[str], Path]) -> None:
    """Flipped bytes anywhere give a DataError, or are not noticed; never another exception."""
    root = copy("cuhk03")
    file = root / "cuhk03_new_protocol_config_detected.mat"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(60):
        damaged = bytearray(whole[: int(rng.integers(len(whole)))] if i % 3 == 0 else whole)
        for at in rng.integers(0, max(len(damaged), 1), 8 if damaged and i else 0):
            damaged[at] = int(rng.integers(256))
        file.write_bytes(damaged if i else b"")
        try:
            load_dataset(f"cuhk03:{root}")
        except DataError:
            refused += 1
    assert refused > 30


def test_cuhk03_raw_file_without_h5py(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy("cuhk03")
    shutil.rmtree(root / "images_detected")
    (root / "cuhk-03.mat").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"cuhk-03.mat needs .* 'h5py'.*pip install 'reidzoo\[data\]'"):
        load_dataset(f"cuhk03:{root}")
    assert not [path.name for path in root.iterdir() if "images_detected" in path.name]


# ---- DG-Market


def test_dgmarket(tmp_path: Path, write_image: WriteImage, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("2/a_c1.jpg", "10/b.png", "10/c.jpg", "loose.jpg", "10/deeper/d.jpg"):
        write_image(tmp_path / name)
    with caplog.at_level(logging.WARNING):
        data = load_dataset(f"dgmarket:{tmp_path}")
    assert data.train.pid.tolist() == [10, 10, 2]
    assert data.train.camid.tolist() == [-1, -1, -1]
    assert len(data.query) == len(data.gallery) == 0
    assert "2 entries left out, for example 'loose.jpg'" in caplog.text
