"""Every check: silent about a good data set, and not about each thing that is wrong."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidzoo.data import Records, ReIDDataset, load_dataset, write_synthetic
from reidzoo.data.checks import CheckReport, SplitCounts, check_dataset
from reidzoo.data.contact_sheet import draw_contact_sheet
from reidzoo.errors import DataError, DataNotFoundError

SMALL = {"cameras": 3, "videos": 1, "tracklets": 1, "images": 2, "size": (48, 24)}
Rows = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("checks") / "people", identities=8, **SMALL)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., ReIDDataset]:
    """made(train=[(content, pid, camid), ...], query=..., gallery=...): a data set of files with these contents."""

    def records(split: str, rows: Rows) -> Records:
        paths = [tmp_path / f"{split}_{i}.jpg" for i in range(len(rows))]
        for path, (content, _, _) in zip(paths, rows, strict=True):
            path.write_text(content)
        return Records.from_columns(paths, [pid for _, pid, _ in rows], [camid for *_, camid in rows])

    def make(train: Rows = (), query: Rows = (), gallery: Rows = ()) -> ReIDDataset:  # type: ignore[assignment]
        return ReIDDataset("made", tmp_path, records("t", train), records("q", query), records("g", gallery))

    return make


def found(report: CheckReport) -> list[tuple[str, str, list[str]]]:
    return [(f.severity, f.check, [Path(p).name for p in f.paths]) for f in report.findings]


def test_good_data(people: Path) -> None:
    report = check_dataset(f"synthetic:{people}", decode=True)
    assert report.findings == ()
    assert report.ok
    data = load_dataset(f"synthetic:{people}")
    assert report.counts()["train"] == SplitCounts(len(data.train), data.train.num_pids, data.train.num_cams, 0, 0)
    assert report.counts()["gallery"][3:] == (8, 8)  # junk and distractors: by default as many as identities
    assert "multi_query" not in report.counts()
    assert json.loads(json.dumps(report.as_dict()))["splits"]["gallery"]["junk"] == 8


def test_pid_zero_is_a_person_where_queries_have_it(made: Callable[..., ReIDDataset]) -> None:
    data = made(query=[("a", 0, 0)], gallery=[("b", 0, 1), ("c", -1, 0)])
    assert check_dataset(data).counts()["gallery"] == SplitCounts(2, 1, 2, 1, 0)
    assert found(check_dataset(data)) == []
    data = made(train=[("t", 0, 0)], query=[("a", 1, 0)], gallery=[("b", 0, 1), ("c", 1, 1)])
    assert check_dataset(data).counts()["gallery"].distractors == 1
    assert found(check_dataset(data)) == []  # the gallery's 0 is not the training's


def test_what_the_reader_says_is_in_the_report(people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = shutil.copytree(people, tmp_path / "people")
    (root / "query" / "IMG_1.jpg").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        report = check_dataset(f"market1501:{root}")
    ((finding,), ok) = report.findings, report.ok
    assert (finding.severity, finding.check, ok) == ("warning", "reader", True)
    assert "1 entries left out, for example 'IMG_1.jpg'" in finding.text
    assert not caplog.records  # once, not twice
    load_dataset(f"market1501:{root}")
    assert "IMG_1.jpg" in caplog.text  # and the log is as before


def test_a_partial_copy_is_a_warning(people: Path, tmp_path: Path) -> None:
    root = shutil.copytree(people, tmp_path / "people")
    (root / "synthetic.json").unlink()  # now it could be the real one
    report = check_dataset(f"market1501:{root}")
    texts = " ".join(f.text for f in report.findings if f.severity == "warning")
    assert report.ok
    assert "train has" in texts
    assert "published are 12,936" in texts
    assert "published are 751" in texts


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            {"train": [("a", 3, 0), ("b", 4, 0)], "query": [("c", 3, 0)], "gallery": [("d", 3, 1)]},
            ("error", "overlap", ["t_0.jpg"]),
            id="a person of the training images is tested",
        ),
        pytest.param(
            {"train": [("a", 3, 0), ("b", 4, 0)], "query": [("c", 5, 0)], "gallery": [("d", 5, 1), ("e", 4, 0)]},
            ("error", "overlap", ["t_1.jpg"]),
            id="a person of the training images is in the gallery only",
        ),
        pytest.param(
            {"query": [("a", 1, 0), ("b", 2, 0)], "gallery": [("c", 1, 1)]},
            ("error", "match", ["q_1.jpg"]),
            id="a query without a match",
        ),
        pytest.param(
            {"query": [("a", 1, 0), ("b", 1, 2)], "gallery": [("c", 1, 0), ("d", 1, 0)]},
            ("warning", "match", ["q_0.jpg"]),
            id="matches of the query's camera only",
        ),
        pytest.param(
            {"query": [("a", 1, 0), ("b", -1, 2)], "gallery": [("c", 1, 1), ("d", -1, 0)]},
            ("error", "junk", ["q_1.jpg"]),
            id="junk among the queries",
        ),
        pytest.param({"train": [("a", -1, 0), ("b", 1, 2)]}, ("error", "junk", ["t_0.jpg"]), id="junk in training"),
        pytest.param(
            {"train": [("a", 1, 0)], "query": [("c", 2, 0)], "gallery": [("e", -1, 1), ("a", 0, 1), ("d", 2, 1)]},
            ("error", "duplicate", ["t_0.jpg", "g_1.jpg"]),
            id="one picture in training and test",
        ),
        pytest.param(
            {"query": [("a", 2, 0)], "gallery": [("a", 2, 1)]},
            ("error", "duplicate", ["q_0.jpg", "g_0.jpg"]),
            id="a query finds itself",
        ),
        pytest.param(
            {"query": [("a", 2, -1)], "gallery": [("a", 2, -1)]},
            ("error", "duplicate", ["q_0.jpg", "g_0.jpg"]),
            id="a query finds itself, cameras unknown",
        ),
        pytest.param(
            {"query": [("a", 2, 0)], "gallery": [("a", 2, 0), ("b", 2, 1)]},
            ("warning", "duplicate", ["q_0.jpg", "g_0.jpg"]),
            id="a query in the gallery, where scoring leaves it out",
        ),
        pytest.param(
            {"train": [("ab", 1, 0), ("cd", 2, 0), ("ab", 3, 0), ("ef", 4, 0)]},
            ("warning", "duplicate", ["t_0.jpg", "t_2.jpg"]),
            id="one picture under two persons",
        ),
        pytest.param(
            {"train": [("ab", 1, 0), ("cd", 2, 0), ("cd", 2, 0)]},
            ("warning", "duplicate", ["t_1.jpg", "t_2.jpg"]),
            id="one picture twice",
        ),
        pytest.param(
            {"train": [("ab", 1, 0), ("", 2, 0), ("", 3, 0)]},
            ("error", "image", ["t_1.jpg", "t_2.jpg"]),
            id="empty files",
        ),
        pytest.param(
            {"train": [("a", 1, 0)], "gallery": [("c", 2, 1)]}, ("error", "match", []), id="a gallery without queries"
        ),
    ],
)
def test_each_fault_is_found_and_nothing_else(
    made: Callable[..., ReIDDataset], data: dict[str, Rows], expected: tuple[str, str, list[str]]
) -> None:
    report = check_dataset(made(**data))
    faults = [f for f in found(report) if f[1] == expected[1]]
    assert faults == [expected]
    assert report.ok == (expected[0] == "warning")
    if expected[1] in ("match", "junk", "image"):
        assert len(found(report)) == 1


def test_matches_of_unknown_cameras_count(made: Callable[..., ReIDDataset]) -> None:
    data = made(query=[("a", 1, -1), ("b", 2, 0)], gallery=[("c", 1, -1), ("d", 2, -1)])
    assert found(check_dataset(data)) == []


def test_errors_come_first(made: Callable[..., ReIDDataset]) -> None:
    data = made(query=[("a", 1, 0), ("bb", 2, 0)], gallery=[("c", 1, 0), ("bb", 2, 1)])
    assert [f.severity for f in check_dataset(data).findings] == ["error", "warning"]


def test_many_equal_files_are_grouped_by_content(made: Callable[..., ReIDDataset]) -> None:
    rng = np.random.default_rng(0)
    contents = [f"{i:04d}" for i in range(150)] * 2
    rows = [(contents[i], int(contents[i]) + 1, 0) for i in rng.permutation(300)]
    (finding,) = check_dataset(made(train=rows)).findings
    assert finding.text.startswith("150 pictures are there more than once")
    texts = [Path(path).read_text() for path in finding.paths]
    assert texts[::2] == texts[1::2]
    assert len(set(texts)) == 150


def test_missing_and_damaged_images(people: Path, tmp_path: Path) -> None:
    root = shutil.copytree(people, tmp_path / "people")
    data = load_dataset(f"synthetic:{root}")
    gone, cut, empty = (Path(data.gallery.path[i]) for i in (0, 3, 5))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-200])
    empty.write_bytes(b"")
    quick = check_dataset(data)
    assert found(quick) == [("error", "image", [gone.name]), ("error", "image", [empty.name])]
    assert not quick.decoded
    full = check_dataset(data, decode=True)
    assert found(full) == [*found(quick), ("error", "image", [cut.name])]  # each file once
    assert f"gallery: {cut} cannot be decoded: " in full.findings[-1].text


def test_large_data_sets_are_compared_on_request(
    made: Callable[..., ReIDDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reidzoo.data.checks._MOST_COMPARED", 2)
    data = made(train=[("ab", 1, 0), ("cd", 2, 0), ("cd", 2, 0)])
    assert (check_dataset(data).compared, found(check_dataset(data))) == (False, [])
    full = check_dataset(data, decode=True)
    assert full.compared
    assert ("warning", "duplicate", ["t_1.jpg", "t_2.jpg"]) in found(full)


def test_what_cannot_be_read_raises(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError):
        check_dataset(f"market1501:{tmp_path}")


# ---- contact sheet


def test_contact_sheet(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns as asked for; every image in the frame of its split, with its camera below."""
    shown = []
    from reidzoo.data import contact_sheet

    def spy(picture: Image.Image, x: int, y: int, cell: contact_sheet._Shown) -> None:
        shown.append((y, x, cell))
        draw(picture, x, y, cell)

    draw = contact_sheet._draw_cell
    monkeypatch.setattr(contact_sheet, "_draw_cell", spy)
    data = load_dataset(f"synthetic:{people}")
    path = draw_contact_sheet(data, tmp_path / "sheet.png", identities=4, images=4)
    rows: dict[int, list[contact_sheet._Shown]] = {}
    for y, _, cell in shown:
        rows.setdefault(y, []).append(cell)
    pids = []
    for cells in rows.values():
        assert len(cells) == 4
        truth = set()
        for cell in cells:
            records = getattr(data, cell.split)
            i = list(records.path).index(cell.path)
            assert records.camid[i] == cell.camid
            truth.add(int(records.pid[i]))
        assert len(truth) == 1  # a row is one person
        pids += truth
        cameras = np.unique(
            np.concatenate([r.camid[r.pid == pids[-1]] for r in (data.train, data.query, data.gallery)])
        )
        if pids[-1] > 0:  # all of a person's cameras are there before one comes twice
            assert {cell.camid for cell in cells} == set(cameras.tolist())
    assert pids[4:] == [0, -1]
    assert set(pids[:2]) <= set(data.train.pid.tolist())
    assert set(pids[2:4]) <= set(data.query.pid.tolist())
    picture = np.asarray(Image.open(path))
    for y, x, cell in shown:
        rgb = tuple(bytes.fromhex(contact_sheet._COLOURS[cell.split][1:]))
        assert tuple(picture[y + 1, x + 20]) == rgb
        inside = picture[y + 10 : y + 120, x + 10 : x + 60].astype(float)
        assert inside.std() > 5


def test_contact_sheet_of_damaged_and_odd_images(tmp_path: Path) -> None:
    """Wide images keep their proportions; those that cannot be decoded are crossed out."""
    for pid in (1, 2):
        (tmp_path / "own" / str(pid)).mkdir(parents=True)
        Image.new("RGB", (400, 20), "red").save(tmp_path / "own" / str(pid) / "wide.png")
        (tmp_path / "own" / str(pid) / "bad.jpg").write_text("no image")
    path = draw_contact_sheet(f"folder:{tmp_path}/own", tmp_path / "sheet.jpg", identities=50)
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
    for name, match in (("sheet.gif", "'.gif'; expected"), ("sheet", "''; expected")):
        with pytest.raises(DataError, match=match):
            draw_contact_sheet(f"folder:{tmp_path}/own", tmp_path / name)
    with pytest.raises(DataError, match="images = 0; expected at least 1"):
        draw_contact_sheet(f"folder:{tmp_path}/own", tmp_path / "x.png", images=0)
