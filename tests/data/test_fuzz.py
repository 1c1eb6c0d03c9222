"""Damaged trees of every layout: a clear error or a reported skip each time, never a crash, never a silent loss."""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from reidzoo.data import ReIDDataset, list_datasets, load_dataset, write_synthetic
from reidzoo.data._layouts import LAYOUTS
from reidzoo.data.checks import SPLITS, CheckReport, check_dataset
from reidzoo.data.loaders import read_image
from reidzoo.errors import CorruptImageError, DataError

SMALL = {"identities": 6, "videos": 1, "tracklets": 1, "images": 2, "size": (32, 16), "distractors": 2, "junk": 2}
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
TRUTH = {"synthetic.csv", "synthetic.json"}  # no part of the layout; the first one is, for the reader "synthetic"
NO_TWIN = {"hf", "tracklets"}  # no tree of files; a tracker's output (tests/training/labels/test_seeking_data.py)
FREE = {"folder", "folder_splits", "dgmarket"}  # any folder of folders of images is one: nothing says what is missing

# The layouts that can be written, and two whose twin is made of another one.
TWINS = [*LAYOUTS, "synthetic", "csv", "folder_splits"]


class Tree(NamedTuple):
    """A data set on disk that may be damaged."""

    layout: str
    root: Path

    @property
    def spec(self) -> str:
        if self.layout == "csv":
            return f"csv:{self.root / 'list.csv'}"
        return f"{reader_of(self.layout)}:{self.root}"

    def files(self) -> list[Path]:
        return sorted(p for p in self.root.rglob("*") if p.is_file() and (p.name not in TRUTH or self.reads_truth))

    def images(self) -> list[Path]:
        return [p for p in self.files() if p.suffix.lower() in SUFFIXES]

    def annotations(self) -> list[Path]:
        return [p for p in self.files() if p.suffix.lower() not in SUFFIXES and p.name != "synthetic.json"]

    @property
    def reads_truth(self) -> bool:
        return self.layout == "synthetic"


def reader_of(layout: str) -> str:
    if layout in LAYOUTS:
        return LAYOUTS[layout].reader or layout
    return {"folder_splits": "folder"}.get(layout, layout)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """twins(layout): the undamaged tree, written once."""
    written: dict[str, Path] = {}

    def write(layout: str) -> Path:
        if layout not in written:
            root = tmp_path_factory.mktemp("twins") / layout
            if layout in LAYOUTS or layout == "synthetic":
                market = layout if layout in LAYOUTS else "market1501"
                cameras = min(3, LAYOUTS[market].max_cameras)
                write_synthetic(root, layout=market, cameras=cameras, **SMALL)
            else:
                {"csv": make_csv, "folder_splits": make_folder_splits}[layout](write("market1501"), root)
            written[layout] = root
        return written[layout]

    return write


def make_csv(market: Path, root: Path) -> None:
    data = load_dataset(f"market1501:{market}")
    (root / "images").mkdir(parents=True)
    with open(root / "list.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "pid", "split", "camid"))
        for split in SPLITS[:3]:
            records = getattr(data, split)
            for path, pid, camid in zip(records.path, records.pid, records.camid, strict=True):
                shutil.copy(path, root / "images")
                table.writerow((f"images/{Path(path).name}", pid, split, camid))


def make_folder_splits(market: Path, root: Path) -> None:
    data = load_dataset(f"market1501:{market}")
    for split in SPLITS[:3]:
        records = getattr(data, split)
        for path, pid in zip(records.path, records.pid, strict=True):
            (root / split / str(pid)).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / split / str(pid))


@pytest.fixture(params=TWINS)
def tree(request: pytest.FixtureRequest, twins: Callable[[str], Path], tmp_path: Path) -> Tree:
    """A copy to damage."""
    return Tree(request.param, shutil.copytree(twins(request.param), tmp_path / "tree"))


@pytest.fixture
def copies(tree: Tree, tmp_path: Path) -> Iterator[Tree]:
    """Fresh copies, one after another, for tests that damage many things in turn."""

    def endless() -> Iterator[Tree]:
        for i in itertools.count():
            shutil.rmtree(tmp_path / f"copy{i - 1}", ignore_errors=True)
            yield Tree(tree.layout, shutil.copytree(tree.root, tmp_path / f"copy{i}", symlinks=True))

    return endless()


def loaded(data: ReIDDataset) -> list[str]:
    return [path for split in SPLITS for path in getattr(data, split).path]


def read(tree: Tree, *, decode: bool = False) -> CheckReport | None:
    """The report on what can be read; None if there was a clear error. Anything else fails the test."""
    try:
        return check_dataset(tree.spec, decode=decode)
    except DataError as e:
        text = str(e)
    assert str(tree.root.parent) in text, f"says not where: {text}"
    assert 40 < len(text) < 3000
    assert "Traceback" not in text
    return None


def told(tree: Tree, before: CheckReport, decode: bool = False) -> None:
    """Either an error, or the report has a finding, or everything that was there is still read."""
    report = read(tree, decode=decode)
    if report is not None and not report.findings:
        assert len(loaded(report.data)) >= len(loaded(before.data)), "images are lost and nobody says so"


def good(tree: Tree) -> CheckReport:
    report = read(tree)
    assert report is not None
    return report


def test_every_reader_is_here() -> None:
    assert {reader_of(layout) for layout in TWINS} >= set(list_datasets()) - NO_TWIN


def test_the_twins_are_good(tree: Tree) -> None:
    report = check_dataset(tree.spec, decode=True)
    assert report.ok, report.findings
    assert len(loaded(report.data)) >= 12
    assert set(loaded(report.data)) <= {str(p) for p in tree.images()}


# ---- the root


def test_wrong_roots(tree: Tree, tmp_path: Path) -> None:
    """The parent, each folder below, a file, an empty folder, nothing: found all the same, or a clear error."""
    before = good(tree)
    empty = tmp_path / "empty"
    empty.mkdir()
    below = [p for p in tree.root.rglob("*") if p.is_dir()][:4]
    for root in (tree.root.parent, *below, tree.images()[0], empty, tmp_path / "no" / "where"):
        report = read(tree._replace(root=root))
        if report is not None and tree.layout not in FREE:
            assert len(loaded(report.data)) == len(loaded(before.data)) or report.findings
        assert root != empty or report is None


# ---- folders and names


def test_missing_folders_and_files(tree: Tree, copies: Iterator[Tree]) -> None:
    """Each entry of the root, gone."""
    before = good(tree)
    for name in sorted(os.listdir(tree.root)):
        if name in TRUTH:
            continue
        damaged = next(copies)
        path = damaged.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        report = read(damaged)
        if report is not None and not report.findings and tree.layout not in FREE:
            # It was not needed: a second form of the same images.
            kept = {p.split("/tree/")[-1] for p in loaded(before.data)}
            assert {os.path.relpath(p, damaged.root) for p in loaded(report.data)} == kept or name == "gt_bbox"


def test_empty_folders(tree: Tree, copies: Iterator[Tree]) -> None:
    """Each entry of the root without its images."""
    before = good(tree)
    for name in sorted(os.listdir(tree.root)):
        if (tree.root / name).is_dir() and name != "gt_bbox":
            damaged = next(copies)
            images = [p for p in damaged.images() if p.is_relative_to(damaged.root / name)]
            for image in images:
                image.unlink()
            report = read(damaged)
            if report is not None and not report.findings and tree.layout not in FREE:
                assert {p.split("/tree/")[-1] for p in loaded(before.data)}.isdisjoint(
                    os.path.relpath(p, damaged.root) for p in images
                ), f"{name} lost its images and nobody says so"


@pytest.mark.parametrize(
    "name", [b"IMG_0001.jpg", b"scan.png", b"_c_.jpg", b"x_y_z_1_2_3.jpg", b"1234567.jpg", b"--.jpg"]
)
def test_wrong_names(tree: Tree, name: bytes) -> None:
    before = good(tree)
    image = Path(before.data.train.path[0])
    image.rename(image.with_name(os.fsdecode(name)))
    told(tree, before)


@pytest.mark.parametrize("number", ["99999999999999999999999", "-7", "0", "٣"])
def test_odd_numbers_in_names(tree: Tree, number: str) -> None:
    """The first number of a name: too large for any integer, negative, zero, and not of ASCII."""
    before = good(tree)
    image = Path(before.data.train.path[0])
    digits = "".join(itertools.takewhile(str.isdigit, image.name))
    renamed = image.with_name(number + image.name[len(digits) :])
    if not renamed.exists():
        image.rename(renamed)
    told(tree, before)


def test_names_that_are_no_unicode(tree: Tree) -> None:
    before = good(tree)
    for records in (before.data.train, before.data.gallery):
        if len(records):
            image = Path(records.path[0])
            os.rename(image, os.fsencode(image.with_suffix("")) + b"_\xff\xfe" + os.fsencode(image.suffix))
    report = read(tree)
    if report is None or report.findings:
        return
    odd = [path for path in loaded(report.data) if "\udcff" in path]
    assert odd
    assert read_image(odd[0]).mode == "RGB"


def test_additional_things(tree: Tree) -> None:
    """What users and programs leave about: more of it is no reason to read less."""
    before = good(tree)
    for folder in [tree.root, *(p for p in tree.root.rglob("*") if p.is_dir())]:
        (folder / "Thumbs.db").write_bytes(b"x")
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._0001_c1s1_000001_01.jpg").write_bytes(b"x")
        (folder / "notes.txt").write_text("notes")
        (folder / "empty").mkdir()
    report = read(tree)
    assert report is not None
    assert report.ok
    assert sorted(loaded(report.data)) == sorted(loaded(before.data))


def test_links(tree: Tree) -> None:
    """A link to nowhere in the place of an image, and a folder that holds itself."""
    before = good(tree)
    image = Path(before.data.train.path[0])
    image.unlink()
    image.symlink_to(tree.root / "nowhere.jpg")
    (image.parent / "loop").symlink_to(tree.root, target_is_directory=True)
    report = read(tree, decode=True)
    assert report is None or report.findings


def test_a_folder_in_the_place_of_an_image(tree: Tree) -> None:
    image = Path(good(tree).data.train.path[0])
    image.unlink()
    image.mkdir()
    report = read(tree, decode=True)
    assert report is None or report.findings


# ---- annotations


def damages(content: bytes) -> dict[str, bytes]:
    """What can become of an annotation file."""
    rng = np.random.default_rng(0)
    result = {"empty": b"", "half": content[: len(content) // 2], "most": content[:-3], "web page": b"<html>404</html>"}
    result |= {
        "binary": rng.bytes(500),
        "null": b"null",
        "list": b"[1, 2, {}]",
        "object": b'{"a": [1]}',
        "text": b"a b c\n",
    }
    result |= {"nested": b"[" * 5000, "huge number": content.replace(b"1", b"1" + b"9" * 30)}
    for i in range(8):  # single bytes lost, in the whole file
        flipped = bytearray(content)
        for at in rng.integers(0, len(content), 1 + i):
            flipped[at] = int(rng.integers(256))
        result[f"flipped {i}"] = bytes(flipped)
    return result


def test_damaged_annotations(tree: Tree) -> None:
    """Whatever the lists hold, there is an error or a report, or all images are still there."""
    before = good(tree)
    for file in tree.annotations():
        content = file.read_bytes()
        for name, damage in damages(content).items():
            file.write_bytes(damage)
            try:
                told(tree, before)
            except Exception as e:
                raise AssertionError(f"{file.name}, {name}: {type(e).__name__}: {e}") from e
        file.write_bytes(content)
    assert len(loaded(good(tree).data)) == len(loaded(before.data))


def test_repeated_lines(tree: Tree) -> None:
    """One image twice in a list: training would see it more often than the others."""
    for file in tree.annotations():
        lines = file.read_bytes().splitlines(keepends=True)
        if file.suffix in (".txt", ".csv") and not tree.reads_truth:
            file.write_bytes(b"".join([*lines, lines[1]]))
            report = read(tree)
            assert report is None or report.findings, file.name
            file.write_bytes(b"".join(lines))


@pytest.mark.parametrize("name", ["1", "9" * 30, "-5", "²"])
def test_odd_names_of_persons(twins: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Folders 0001 and 1 become one person; other numbers are none that fits."""
    tree = Tree("folder", shutil.copytree(twins("folder"), tmp_path / "tree"))
    before = good(tree)
    first, second, *_ = sorted(tree.root.glob("0*"))
    second.rename(tree.root / name)
    if name == "²":  # a digit that is no number: then all names are text
        assert good(tree).data.train.num_pids == before.data.train.num_pids
        return
    if name == "1":
        assert any(first.name in finding.text for finding in good(tree).findings)
        return
    with pytest.raises(DataError, match=name):
        check_dataset(tree.spec)


def test_annotations_that_list_more_than_there_is(tree: Tree) -> None:
    """An image is gone, but still listed."""
    before = good(tree)
    gone = Path(before.data.train.path[-1])
    gone.unlink()
    report = read(tree)
    if report is not None and tree.annotations():  # without a list, nobody can know
        assert report.findings or str(gone) not in loaded(report.data)
    if report is not None and str(gone) in loaded(report.data):
        assert not report.ok


# ---- images


def test_zero_byte_and_truncated_images(tree: Tree) -> None:
    """They are named by the check, and loading says which file it was."""
    data = good(tree).data
    empty, cut = Path(data.train.path[0]), Path(data.train.path[-1])
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    report = read(tree, decode=True)
    if report is None:
        return
    named = {path for finding in report.findings if finding.severity == "error" for path in finding.paths}
    assert named == {str(empty), str(cut)}
    for path in named:
        with pytest.raises(CorruptImageError, match="cannot be decoded"):
            read_image(path)


def kinds() -> dict[str, bytes]:
    """Images as cameras and programs write them, of one upright person-like picture: dark above, light below."""
    ramp = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[:, None], 16, axis=1)
    grey = Image.fromarray(ramp)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # shown turned by a quarter
    pictures = {
        "16-bit": (Image.fromarray(ramp.astype(np.uint16) << 8), "PNG", {}),
        "CMYK": (grey.convert("RGB").convert("CMYK"), "JPEG", {}),
        "palette": (grey.convert("P"), "PNG", {}),
        "grey": (grey, "JPEG", {}),
        "alpha": (grey.convert("RGBA"), "PNG", {}),
        "rotated": (grey.transpose(Image.Transpose.ROTATE_90), "JPEG", {"exif": rotated}),
        "progressive": (grey.convert("RGB"), "JPEG", {"progressive": True}),
        "tiff": (grey.convert("RGB"), "TIFF", {}),
        "bitmap": (grey.convert("RGB"), "BMP", {}),
    }
    files = {}
    for name, (picture, form, options) in pictures.items():
        stream = io.BytesIO()
        picture.save(stream, form, **options)
        files[name] = stream.getvalue()
    return files


def test_images_of_every_kind(tree: Tree) -> None:
    """Under the name that the layout wants, whatever is inside: read as upright RGB, and no cause for complaint."""
    data = good(tree).data
    files = kinds()
    for path, content in zip(data.train.path, files.values(), strict=False):
        Path(path).write_bytes(content)
    report = read(tree, decode=True)
    assert report is not None
    assert report.ok, report.findings
    assert loaded(report.data) == loaded(data)
    for path, name in zip(data.train.path, files, strict=False):
        image = read_image(path)
        assert (image.mode, image.size) == ("RGB", (16, 32)), name
        pixels = np.asarray(image, dtype=float).mean(axis=2)
        assert pixels[:8].mean() < 60, name
        assert pixels[-8:].mean() > 195, name


def test_one_picture_in_training_and_test(tree: Tree) -> None:
    data = good(tree).data
    if len(data.query):
        Path(data.query.path[0]).write_bytes(Path(data.train.path[0]).read_bytes())
        report = read(tree)
        assert report is None or {data.query.path[0], data.train.path[0]} <= {
            p for f in report.findings for p in f.paths
        }
        assert report is None or not report.ok
