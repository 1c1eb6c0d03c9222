from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reidzoo import pretrain
from reidzoo.data import Records, load_dataset, write_synthetic
from reidzoo.data import _json_stream as json_stream
from reidzoo.data._json_stream import iter_json_list
from reidzoo.data.datasets.luperson import read_luperson
from reidzoo.data.ranked_list import read_name_list
from reidzoo.errors import ConfigError, DataError, DataNotFoundError

LAYOUTS = ("cion_al", "luperson", "luperson_nl")
MakeTwin = Callable[[str], Path]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    for layout in LAYOUTS:
        write_synthetic(
            root / layout, layout=layout, identities=8, cameras=5, videos=2, tracklets=2, images=3, size=(32, 16)
        )
    return root


@pytest.fixture
def twin(originals: Path, tmp_path: Path) -> MakeTwin:
    """A copy of the synthetic data set in a layout, to be changed at will."""

    def make(layout: str) -> Path:
        shutil.copytree(originals / layout, tmp_path / layout)
        return tmp_path / layout

    return make


def truth(root: Path) -> dict[str, dict[str, int]]:
    with open(root / "synthetic.csv", encoding="utf-8", newline="") as file:
        numbers = ("pid", "video", "tracklet")
        return {row["path"]: {name: int(row[name]) for name in numbers} for row in csv.DictReader(file)}


def same_groups(a: list[int], b: list[int]) -> bool:
    """Whether two columns group the rows alike, whatever the numbers."""
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def names(records: Records, root: Path) -> list[str]:
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in records.path]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twins_are_read_back_as_they_were_drawn(originals: Path, layout: str) -> None:
    root = originals / layout
    data = load_dataset(f"{layout}:{root}")
    expected = truth(root)
    found = names(data.train, root)
    assert sorted(found) == sorted(expected)
    assert len(found) > 100
    assert (data.train.camid == -1).all()
    assert len(data.query) == len(data.gallery) == 0
    rows = [expected[name] for name in found]
    pid = {"cion_al": "pid", "luperson_nl": "tracklet"}.get(layout)  # LUPerson has no identities
    assert data.train.pid.tolist() == [row[pid] if pid else 0 for row in rows]
    for name in set(data.train.extras) - {"frame"}:
        assert same_groups(data.train.extras[name].tolist(), [row[name] for row in rows])
    assert set(data.train.extras) == {
        "cion_al": set(), "luperson": {"video", "frame"}, "luperson_nl": {"video", "tracklet", "frame"}
    }[layout]  # fmt: skip
    if "frame" in data.train.extras:
        place = {"luperson": 3, "luperson_nl": 1}[layout]
        frames = [int(Path(name).stem.split("_")[place]) for name in found]
        assert data.train.extras["frame"].tolist() == frames


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_that_people_give(originals: Path, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_dataset(f"{layout}:{originals / layout}").train
    name = {"cion_al": "CION_AL", "luperson": "LUPerson", "luperson_nl": "LUPerson-NL"}[layout]
    (tmp_path / name).symlink_to(originals / layout)
    monkeypatch.setenv("REIDZOO_DATA", str(tmp_path))
    for spec in (layout, f"{layout}:{tmp_path}", f"{layout}:{tmp_path / name}"):
        records = load_dataset(spec).train
        assert names(records, tmp_path / name) == names(expected, originals / layout)
        assert records.pid.tolist() == expected.pid.tolist()
    if layout != "luperson_nl":
        child = {"cion_al": "sec0", "luperson": "images"}[layout]
        assert len(load_dataset(f"{layout}:{tmp_path / name / child}").train) == len(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_data_are_said(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=rf"(?s)nowhere does not exist.*Expected:.*{layout}:<root>"):
        load_dataset(f"{layout}:{tmp_path / 'nowhere'}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("hello")
    with pytest.raises(DataNotFoundError, match=r"holds readme.txt"):
        load_dataset(f"{layout}:{tmp_path / 'other'}")


# ---- CION-AL


def annotate(root: Path, change: Callable[[list[dict]], object]) -> None:
    file = root / "cional_annos.json"
    entries = json.loads(file.read_text())
    change(entries)
    file.write_text(json.dumps(entries))


def test_both_spellings_and_any_file(twin: MakeTwin) -> None:
    root = twin("cion_al")
    expected = load_dataset(f"cion_al:{root}").train
    (root / "cional_annos.json").rename(root / "cinoal_annos.json")
    assert load_dataset(f"cion_al:{root}").train == expected
    assert load_dataset(root).train == expected
    (root / "cinoal_annos.json").rename(root / "mine.json")
    assert load_dataset(f"cion_al:{root / 'mine.json'}").train == expected
    with pytest.raises(DataNotFoundError, match=r"cional_annos.json"):
        load_dataset(f"cion_al:{root}")


def test_other_fields_are_ignored_and_integer_extras_are_kept(twin: MakeTwin) -> None:
    root = twin("cion_al")
    plain = load_dataset(f"cion_al:{root}").train

    def extend(entries: list[dict]) -> None:
        for i, entry in enumerate(entries):
            entry |= {"attributes": {"hat": ["}", "],["]}, "captions": ['a "man" {in} [red]', "für"], "video": i // 7}
            entry |= {"tracklet": "t1"}

    annotate(root, extend)
    records = load_dataset(f"cion_al:{root}").train
    assert records == replace(plain, extras={"video": np.arange(len(plain)) // 7})


def test_an_extra_that_some_entries_lack_is_left_out(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("cion_al")
    plain = load_dataset(f"cion_al:{root}").train
    annotate(root, lambda entries: [entry.update(frame=3) for entry in entries[:-1]])
    assert load_dataset(f"cion_al:{root}").train == plain
    assert "'frame' is left out, because some entries have no integer" in caplog.text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_path": "sec0/a.jpg"}, r"entry 4: expected 'id' to be an integer from 0, found {'file_path'"),
        ({"id": "7", "file_path": "sec0/a.jpg"}, "entry 4: expected 'id'"),
        ({"id": True, "file_path": "sec0/a.jpg"}, "entry 4: expected 'id'"),
        ({"id": -1, "file_path": "sec0/a.jpg"}, "entry 4: expected 'id'"),
        ({"id": 2**63, "file_path": "sec0/a.jpg"}, "entry 4: expected 'id'"),
        ({"id": 1}, "entry 4: expected 'file_path' to be a path below"),
        ({"id": 1, "file_path": 5}, "entry 4: expected 'file_path'"),
        ({"id": 1, "file_path": ""}, "entry 4: expected 'file_path'"),
        ({"id": 1, "file_path": "/etc/passwd"}, "entry 4: expected 'file_path'"),
        ({"id": 1, "file_path": "sec0/../../a.jpg"}, "entry 4: expected 'file_path'"),
        ({"id": 1, "file_path": "sec0\\..\\..\\a.jpg"}, "entry 4: expected 'file_path'"),
        ({"id": 1, "file_path": "a\0b"}, "entry 4: expected 'file_path'"),
        ([1], "expected an object {...}, found '\\[1\\]"),
    ],
)
def test_wrong_entries_are_named(twin: MakeTwin, entry: object, message: str) -> None:
    root = twin("cion_al")
    annotate(root, lambda entries: entries.__setitem__(3, entry))  # type: ignore[arg-type,call-overload]
    with pytest.raises(DataError, match=message):
        load_dataset(f"cion_al:{root}")


def test_missing_images_are_counted(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("cion_al")
    total = len(load_dataset(f"cion_al:{root}").train)
    assert caplog.text == ""
    gone = sorted((root / "sec3").iterdir())[:5]
    for file in gone:
        file.unlink()
    for _ in range(2):  # every time, not only when the index is made
        caplog.clear()
        assert len(load_dataset(f"cion_al:{root}").train) == total
        assert f"5 of {total} listed images are missing, in 1 folders, for example sec3/" in caplog.text
    for folder in root.glob("sec*"):
        shutil.rmtree(folder)
    with pytest.raises(DataNotFoundError, match=f"None of the {total} images that are listed"):
        load_dataset(f"cion_al:{root}")


def test_a_partial_copy_differs_from_the_published_figures(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("cion_al")
    (root / "synthetic.json").unlink()
    load_dataset(f"cion_al:{root}")
    assert "published are 3,898,086" in caplog.text
    assert "published are 246,904" in caplog.text


def test_pretraining_runs_on_the_twin(originals: Path, tmp_path: Path) -> None:
    result = pretrain(
        "timm/test_resnet", f"cion_al:{originals / 'cion_al'}", output_dir=tmp_path / "run", epochs=1, batch_size=8,
        img_size=(32, 16), local_crops=0, output_dim=32, hidden_dim=16, num_workers=0, device="cpu", num_instances=2,
    )  # fmt: skip
    assert np.isfinite(result.history[-1]["loss"])


# ---- the JSON parser

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), max_size=12),
    st.integers(1, 40),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_any_list_is_parsed_whatever_the_pieces(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict], piece: int, indent: int | None, ascii_only: bool
) -> None:
    file = tmp_path_factory.mktemp("json") / "list.json"
    text = json.dumps(entries, indent=indent, ensure_ascii=ascii_only)
    file.write_bytes(text.encode("utf-8", "surrogatepass") if ascii_only else text.encode("utf-8", "replace"))
    expected = json.loads(file.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_PIECE", piece)
        assert list(iter_json_list(file)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"it does not start with '\[', after 0 entries"),
        (b'{"id": 1}', r"it does not start with '\['"),
        (b"[", "expected an object {...}, found ''"),
        (b'[{"id": 1}', "it ends early, after 1 entries"),
        (b'[{"id": 1}, {"id', "Unterminated string .* after 1 entries"),
        (b'[{"id": 1},]', r"expected an object {...}, found '\]', after 1 entries"),
        (b'[{"id": 1} {"id": 2}]', "expected ',' or ']', found '{', after 1 entries"),
        (b'[{"id": 1}] []', r"'\[\]' follows the list, after 1 entries"),
        (b'[{"id": 1}, 5]', "expected an object {...}, found '5]'"),
        (b'[{"id": }]', "Expecting value"),
        (b'[{"id": "\xff"}]', "can't decode byte 0xff"),
        (b"PK\x03\x04", r"it does not start with '\['"),
        (b"[" + b'{"a":' * 100_000 + b"[", "nested too deeply|Expecting value"),
    ],
)
def test_damaged_lists_are_errors(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "list.json").write_bytes(text)
    with pytest.raises(DataError, match=message):
        list(iter_json_list(tmp_path / "list.json"))


def test_an_entry_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", 1000)
    monkeypatch.setattr(json_stream, "_LONGEST", 5000)
    (tmp_path / "list.json").write_text('[{"id": "' + "x" * 100_000)
    tracemalloc.start()
    with pytest.raises(DataError, match="Unterminated string"):
        list(iter_json_list(tmp_path / "list.json"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000


def test_memory_does_not_grow_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "sec0").mkdir()
    (tmp_path / "sec0" / "0.jpg").write_bytes(b"")
    file = tmp_path / "cional_annos.json"
    with file.open("w") as stream:
        stream.write("[")
        stream.writelines(
            f'{{"id": {i // 16}, "file_path": "sec0/{i}.jpg", "captions": ["{"word " * 30}"]}}, ' for i in range(60_000)
        )
        stream.write('{"id": 0, "file_path": "sec0/0.jpg"}]')
    tracemalloc.start()
    records = load_dataset(f"cion_al:{tmp_path}").train
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records) == 60_001
    assert file.stat().st_size > 10e6
    assert peak < 8e6 + 60_001 * 24  # 8192 entries, and what the column checks and counts need


# ---- LUPerson


def test_selections_keep_the_order_of_the_list(twin: MakeTwin) -> None:
    root = twin("luperson")
    listed = pickle.loads((root / "CFS_list.pkl").read_bytes())
    everything = load_dataset(f"luperson:{root}").train
    video = dict(zip(names(everything, root), everything.extras["video"].tolist(), strict=True))
    for spec, keep in (("cfs", 0.6), ("cfs50", 0.5)):
        records = load_dataset(f"luperson@{spec}:{root}").train
        assert names(records, root) == [f"images/{name}" for name in listed[: int(np.ceil(keep * len(listed)))]]
        assert records.extras["video"].tolist() == [video[name] for name in names(records, root)]
    assert len(read_luperson(root, "cfs", keep_num=7).train) == 7
    assert np.ceil(0.6 * 4_180_243) == 2_508_146  # as TransReID-SSL's settings say
    assert np.ceil(0.5 * 4_180_243) == 2_090_122


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_lists_of_other_kinds(twin: MakeTwin, suffix: str) -> None:
    root = twin("luperson")
    expected = load_dataset(f"luperson@cfs:{root}").train
    listed = read_name_list(root / "CFS_list.pkl")
    (root / "CFS_list.pkl").unlink()
    text = json.dumps(listed) if suffix == ".json" else "\n".join(listed) + "\n\n"
    (root / f"cfs_list{suffix}").write_text(text)
    assert load_dataset(f"luperson@cfs:{root}").train == expected


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Evil()), r"cannot be read \(it wants to load (posix|nt).system\)"),
        (pickle.dumps([Evil()]), r"cannot be read \(it wants to load (posix|nt).system\)"),
        (pickle.dumps(np.arange(3)), r"it wants to load numpy"),
        (pickle.dumps({"keys": ["a.jpg"]}), "holds no list of file names, but dict"),
        (pickle.dumps(["a.jpg", 5]), "holds no list of file names, but list"),
        (pickle.dumps([]), "holds no list of file names"),
        (pickle.dumps(["a.jpg", "b.jpg", "a.jpg"]), "names 1 images twice"),
        (pickle.dumps(["a.jpg"] * 50)[:20], "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.pkl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_name_list(tmp_path / "list.pkl")
    assert not (tmp_path / "evil").exists()


def test_names_in_the_list_that_are_no_images_are_counted(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("luperson")
    listed = read_name_list(root / "CFS_list.pkl")
    (root / "CFS_list.pkl").write_bytes(pickle.dumps(["../synthetic.csv", "99_99_9999_00000001.jpg", *listed]))
    records = read_luperson(root, "cfs", keep_num=10).train
    assert names(records, root) == [f"images/{name}" for name in listed[:8]]
    assert "2 entries left out, for example '../synthetic.csv': there is no such image" in caplog.text
    (root / "CFS_list.pkl").write_bytes(pickle.dumps(["99_99_9999_00000001.jpg"]))
    with pytest.raises(DataNotFoundError, match=r"None of the 1 images in .*CFS_list.pkl are in"):
        load_dataset(f"luperson@cfs:{root}")


def test_keep_num_and_the_list(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("luperson")
    everything = len(load_dataset(f"luperson:{root}").train)
    assert len(read_luperson(root, "cfs", keep_num=10**6).train) == everything
    assert f"it lists {everything} images, fewer than the 1,000,000 to keep" in caplog.text
    for variant, keep in (("cfs", 0), ("full", 5)):
        with pytest.raises(ConfigError, match="keep_num is"):
            read_luperson(root, variant, keep_num=keep)
    (root / "CFS_list.pkl").unlink()
    with pytest.raises(DataNotFoundError, match=r"no list of images .* or read all images: luperson:"):
        load_dataset(f"luperson@cfs:{root}")


def test_other_names_are_left_out_with_a_count(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("luperson")
    everything = load_dataset(f"luperson:{root}").train
    for name in ("keys.pkl", "a_b_c_d.jpg", "1_2_3.jpg", "01_01_0001_00000001.jpg.tmp"):
        (root / "images" / name).write_bytes(b"")
    (root / "images" / "more").mkdir()
    records = load_dataset(f"luperson:{root}").train
    assert records.select(np.arange(len(everything))) == everything
    assert (
        "5 entries left out, for example 'more': images are named <country>_<city>_<video>_<index>.jpg" in caplog.text
    )


def test_the_raw_tree(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    flat_root = twin("luperson")
    flat = load_dataset(f"luperson:{flat_root}").train
    root = flat_root.parent / "raw" / "LUPerson"
    for path in flat.path:
        country, city, video, index = Path(path).stem.split("_")
        target = root / country / city / video / f"{index}_0002.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    raw = load_dataset(f"luperson:{root}").train
    assert raw.extras["video"].tolist() == flat.extras["video"].tolist()
    assert raw.extras["frame"].tolist() == flat.extras["frame"].tolist()
    assert raw.pid.tolist() == flat.pid.tolist()
    assert load_dataset(f"luperson:{root.parent}").train == raw
    assert "left out" not in caplog.text


# ---- LUPerson-NL


def test_strays_in_the_tree_are_counted_once(twin: MakeTwin, caplog: pytest.LogCaptureFixture) -> None:
    root = twin("luperson_nl")
    everything = load_dataset(f"luperson_nl:{root}").train
    video = Path(everything.path[-1]).parent
    for place, name in ((root, "stray.jpg"), (video, "x.jpg"), (video, "000001_5.jpg"), (video.parent, "1_2_3.jpg")):
        (place / name).write_bytes(b"")
    (video / "deeper").mkdir()
    (root / "02" / "empty" / "video").mkdir(parents=True)
    caplog.clear()
    records = load_dataset(f"luperson_nl:{root}").train
    assert names(records, root) == names(everything, root)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "5 entries left out" in warnings[0]


def test_a_new_image_is_seen(twin: MakeTwin) -> None:
    root = twin("luperson_nl")
    before = load_dataset(f"luperson_nl:{root}").train
    video = Path(before.path[0]).parent
    shutil.copy(before.path[0], video / "999999_0000001_00.jpg")
    after = load_dataset(f"luperson_nl:{root}").train
    assert len(after) == len(before) + 1
    assert 999999 in after.pid


def test_a_folder_inside_says_the_right_one(twin: MakeTwin) -> None:
    root = twin("luperson_nl")
    load_dataset(f"luperson_nl:{root}")
    with pytest.raises(DataNotFoundError, match=rf"If it is one of the country folders, give {root} instead"):
        load_dataset(f"luperson_nl:{root / '01'}")
    with pytest.raises(DataNotFoundError, match=rf"If it is one of the city folders, give {root} instead"):
        load_dataset(f"luperson_nl:{root / '01' / '02'}")
    with pytest.raises(DataNotFoundError, match=rf"If it is one of the video folders, give {root} instead"):
        load_dataset(f"luperson_nl:{root / '01' / '02' / '0001'}")


def test_names_that_are_no_utf8_are_left_out_or_kept(twin: MakeTwin) -> None:
    root = twin("luperson_nl")
    os.rename(root / "01", os.fsencode(root) + b"/\xff\xfe")
    records = load_dataset(f"luperson_nl:{root}").train
    assert b"/\xff\xfe/" in b"".join(os.fsencode(path) for path in records.path)
    assert all(os.path.exists(path) for path in records.path)
