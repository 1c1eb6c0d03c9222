from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidzoo.data import Records
from reidzoo.data._index import IndexWriter, indexed
from reidzoo.errors import DataError, DataNotFoundError, StoreError

N = 1000


class Source:
    """A folder with an annotation file, a builder of its index, and how often that ran."""

    def __init__(self, root: Path) -> None:
        self.root, self.annotation, self.built = root, root / "list.txt", 0
        (root / "images").mkdir(parents=True)
        self.annotation.write_text("".join(f"images/{i:05d}.jpg {i // 4}\n" for i in range(N)))

    def build(self, writer: IndexWriter) -> None:
        self.built += 1
        rows = [line.split() for line in self.annotation.read_text().splitlines()]
        for start in range(0, len(rows), 300):
            block = rows[start : start + 300]
            pids = [int(pid) for _, pid in block]
            writer.add([path for path, _ in block], pid=pids, camid=-1, frame=range(start, start + len(block)))

    def load(self) -> Records:
        return indexed("test-1", self.root, self.build, annotation=self.annotation, folders=[self.root / "images"])

    def expected(self) -> Records:
        paths = [f"{self.root}/images/{i:05d}.jpg" for i in range(N)]
        return Records.from_columns(paths, np.arange(N) // 4, np.full(N, -1), frame=range(N))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path, home: Path) -> Source:
    return Source(tmp_path / "data")


def is_mapped(column: np.ndarray) -> bool:
    return isinstance(column.base, np.memmap)


def indexes(home: Path) -> list[Path]:
    return [path for path in home.glob("index/*/*") if path.is_dir()]


def test_builds_once_and_maps_then(source: Source) -> None:
    assert source.load() == source.load() == source.expected()
    assert source.built == 1
    records = source.load()
    assert is_mapped(records.pid)
    assert is_mapped(records.extras["frame"])
    assert records.camid.strides == (0,)  # one value for all rows
    with pytest.raises(ValueError, match="read-only"):
        records.pid[0] = 7


def test_selections_and_relabels_of_mapped_records(source: Source) -> None:
    records, plain = source.load(), source.expected()
    assert records.select([5, 3]) == plain.select([5, 3])
    assert list(records.path[998:]) == list(plain.path[998:])
    assert records.path[-1] == plain.path[-1]
    assert records.relabel() == plain.relabel()


@pytest.mark.parametrize("change", ["content", "size", "folder"])
def test_a_change_builds_anew_and_removes_the_outdated(source: Source, home: Path, change: str) -> None:
    source.load()
    if change == "content":
        stat = source.annotation.stat()
        source.annotation.write_text(source.annotation.read_text().replace("00007.jpg 1", "00007.jpg 9"))
        os.utime(source.annotation, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    elif change == "size":
        source.annotation.write_text("images/a.jpg 5\n")
    else:
        os.utime(source.root / "images", ns=(0, 0))
    records = source.load()
    assert source.built == 2
    assert records.pid[: len(records)][-1] == (5 if change == "size" else 249)
    assert len(records) == (1 if change == "size" else N)
    assert (records.pid == 9).sum() == {"content": 5, "size": 0, "folder": 4}[change]
    assert len(indexes(home)) == 1


def test_what_vanishes_while_the_outdated_is_removed(source: Source, home: Path) -> None:
    """Another process moves its folder between the listing and the look at its age: here, a link to nothing."""
    source.load()
    (indexes(home)[0].parent / ".partial-1").symlink_to("gone")
    source.annotation.write_text("images/a.jpg 5\n")
    assert source.load().pid[0] == 5


def test_a_touched_or_copied_annotation_file_is_recognised(source: Source) -> None:
    source.load()
    os.utime(source.annotation, ns=(0, 0))
    assert source.load() == source.expected()
    assert source.built == 1


@pytest.mark.parametrize("damage", ["no meta", "half meta", "short column", "missing column", "other length"])
def test_a_damaged_index_is_made_anew(source: Source, home: Path, damage: str) -> None:
    source.load()
    (folder,) = indexes(home)
    if damage == "no meta":
        (folder / "index.json").unlink()
    elif damage == "half meta":
        (folder / "index.json").write_text((folder / "index.json").read_text()[:40])
    elif damage == "short column":
        os.truncate(folder / "pid.npy", 4000)
    elif damage == "missing column":
        (folder / "frame.npy").unlink()
    else:
        np.save(folder / "offsets.npy", np.arange(N))
    assert source.load() == source.expected()
    assert source.built == 2
    assert len(indexes(home)) == 1


def test_an_error_while_building_leaves_nothing(source: Source, home: Path) -> None:
    source.annotation.write_text("images/a.jpg 5\nimages/b.jpg five\n")
    with pytest.raises(ValueError, match="five"):
        source.load()
    assert indexes(home) == []


def test_no_image_is_an_error(source: Source, home: Path) -> None:
    source.annotation.write_text("")
    with pytest.raises(DataError, match=r"no image in .*data that can be used"):
        source.load()
    assert indexes(home) == []


def test_a_full_disk_is_said(source: Source, home: Path) -> None:
    def build(writer: IndexWriter) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"The disk is full: .* set REIDZOO_HOME"):
        indexed("test-1", source.root, build, annotation=source.annotation)
    assert indexes(home) == []


def test_a_source_that_changes_meanwhile_is_refused(source: Source, home: Path) -> None:
    def build(writer: IndexWriter) -> None:
        source.build(writer)
        source.annotation.write_text("images/a.jpg 5\n")

    with pytest.raises(DataError, match=r"list.txt changed while it was read"):
        indexed("test-1", source.root, build, annotation=source.annotation)
    assert indexes(home) == []


def test_notes_are_repeated_at_every_load(source: Source, caplog: pytest.LogCaptureFixture) -> None:
    def build(writer: IndexWriter) -> None:
        source.build(writer)
        writer.skip(source.root, 1234, "odd.txt", "it is no image")

    for _ in range(2):
        caplog.clear()
        indexed("test-1", source.root, build, annotation=source.annotation)
        assert [record.getMessage() for record in caplog.records] == [
            f"{source.root}: 1,234 entries left out, for example 'odd.txt': it is no image."
        ]


def test_a_home_that_cannot_be_written(source: Source, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    home.write_text("a file, not a folder")
    assert source.load() == source.load() == source.expected()
    assert source.built == 1  # within a process
    assert "cannot be kept" in caplog.text
    code = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_index import Source
        source = Source.__new__(Source)
        source.root, source.annotation, source.built = Path({str(source.root)!r}), Path({str(source.annotation)!r}), 0
        records = source.load()
        assert len(records) == {N}
        print(records.pid.base.filename)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "reidzoo-index-" in run.stdout
    assert not Path(run.stdout.strip()).exists()  # removed at the end of the process


def test_an_index_that_is_there_is_read_without_writing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.load()

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert source.load() == source.expected()
    assert source.built == 1


def _load_in_process(root: Path, log: Path, barrier: object) -> None:
    source = Source.__new__(Source)
    source.root, source.annotation, source.built = root, root / "list.txt", 0
    barrier.wait()  # type: ignore[attr-defined]
    assert source.load() == source.expected()
    with log.open("a") as file:
        file.write(f"{source.built}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks there: each builds, the first one's is kept")
def test_processes_that_want_the_same_index_build_it_once(source: Source, tmp_path: Path, home: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    args = (source.root, tmp_path / "log", barrier)
    processes = [context.Process(target=_load_in_process, args=args) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "0", "0", "1"]
    assert len(indexes(home)) == 1


def test_mapped_records_are_pickled_by_reference(source: Source) -> None:
    records = source.load()
    pickled = pickle.dumps(records)
    assert len(pickled) < 3000  # the columns have 28 bytes per row
    again = pickle.loads(pickled)
    assert again == copy.copy(records) == copy.deepcopy(records) == records
    assert is_mapped(again.pid)
    assert again.camid.strides == (0,)


@pytest.mark.parametrize("rows", [slice(1, None), slice(None, None, -1), slice(None, None, 2)])
def test_a_part_of_a_mapped_column_is_pickled_as_itself(source: Source, rows: slice) -> None:
    whole = source.load()
    part = Records(whole.path[rows], whole.pid[rows], whole.camid[rows])
    assert pickle.loads(pickle.dumps(part)) == part
    assert pickle.loads(pickle.dumps(part)).pid.tolist() == [i // 4 for i in range(N)][rows]


def test_other_maps_are_pickled_as_themselves(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    np.arange(5).tofile(tmp_path / "raw")
    mine = np.load(tmp_path / "a.npy", mmap_mode="c")
    mine[0] = 7
    read_only = np.load(tmp_path / "a.npy", mmap_mode="r")
    for column in (read_only[::-1], read_only[:3], mine, np.memmap(tmp_path / "raw", dtype=np.int64, mode="r")):
        rows = np.zeros(len(column))
        records = Records.from_columns("abcde"[: len(column)], rows, rows, other=column)
        assert pickle.loads(pickle.dumps(records)).extras["other"].tolist() == column.tolist()


def test_an_index_that_is_gone_is_said(source: Source, home: Path) -> None:
    pickled = pickle.dumps(source.load())
    (folder,) = indexes(home)
    (folder / "pid.npy").unlink()
    with pytest.raises(DataNotFoundError, match=r"pid.npy, which holds a column of a data set, is gone"):
        pickle.loads(pickled)


PROBE = """
import json, pickle, sys
import numpy as np
from torch.utils.data import DataLoader
from reidzoo.data import Records

class Probe:  # its samples say how the worker holds the records
    def __init__(self, *lists):
        self.lists = lists

    def __getitem__(self, at):
        records, i = self.lists[at[0]], at[1]
        columns = [records.path._buffer, records.path._offsets, records.pid]
        return int(records.pid[i]), records.path[i], [isinstance(column.base, np.memmap) for column in columns]

if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        indexed = pickle.load(file)
    n = 140_000
    large = Records.from_columns((f"/d/{i}.jpg" for i in range(n)), np.arange(n), np.zeros(n))
    lists = (indexed, large)
    rows = [(k, i) for k in (0, 1) for i in (0, 7, len(lists[k]) - 1)]
    how = {"batch_size": None, "num_workers": 1, "multiprocessing_context": "spawn"}
    found = list(DataLoader(Probe(*lists), sampler=rows, **how))
    print(json.dumps([found, [[int(lists[k].pid[i]), lists[k].path[i], [True] * 3] for k, i in rows]]))
"""


def test_spawned_loader_processes_map_what_is_mapped_and_what_is_large(
    source: Source, tmp_path: Path, warm_python: str
) -> None:
    """In a script of its own: what a spawned process unpickles has to be importable there."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "records.pickle").write_bytes(pickle.dumps(source.load()))
    command = [warm_python, str(tmp_path / "probe.py"), str(tmp_path / "records.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout)
    assert found == expected
    assert len(found) == 6


def test_temporary_files_of_large_columns_go_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    n = 140_000
    records = Records.from_columns(("a" for _ in range(n)), np.arange(n), np.zeros(n))
    monkeypatch.setattr("multiprocessing.context.get_spawning_popen", lambda: True)
    pickled = pickle.dumps(records), pickle.dumps(records)
    assert len(list(tmp_path.glob("reidzoo-*.npy"))) == 3  # pid, camid, offsets: once each
    assert max(map(len, pickled)) < n + 5000
    assert pickle.loads(pickled[0]) == records
    del records
    assert list(tmp_path.glob("reidzoo-*.npy")) == []


def test_large_columns_are_copied_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    records = Records.from_columns(("a" for _ in range(140_000)), np.arange(140_000), np.zeros(140_000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("multiprocessing.context.get_spawning_popen", lambda: True)
    monkeypatch.setattr(np, "save", full)
    assert pickle.loads(pickle.dumps(records)) == records
    assert list(tmp_path.glob("reidzoo-*.npy")) == []


def test_an_image_of_mapped_records_loads(source: Source) -> None:
    from reidzoo.data.loaders import read_image

    Image.new("RGB", (8, 16), "red").save(source.root / "images" / "00003.jpg")
    assert read_image(source.load().path[3]).size == (8, 16)


def test_the_description_is_plain(source: Source, home: Path) -> None:
    source.load()
    (folder,) = indexes(home)
    meta = json.loads((folder / "index.json").read_text())
    assert meta["rows"] == N
    assert meta["annotation"] == str(source.annotation)
    assert len(meta["sha256"]) == 64
