"""Files and folders that appear whole or not at all, also when the disk is full or another process is faster."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from reidzoo._files import atomic, settle
from reidzoo.data import write_synthetic
from reidzoo.data._index import IndexWriter, indexed
from reidzoo.data.archives import extract_archive
from reidzoo.errors import DataError
from reidzoo.training._checkpoint import load, save
from reidzoo.training._tracking import _drop_lines_after


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may become larger: what a process meets on a full disk, in the middle of its writing."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("old")
    with room_for(1000), pytest.raises(OSError, match=rf"File too large: '{file}'"), atomic(file) as temporary:
        temporary.write_text(2000 * "x")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])
    with pytest.raises(OSError, match=r"^of its own words$"), atomic(file):
        raise OSError("of its own words")


def test_a_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    """torch would say ``unexpected pos 800832 vs 800784``."""
    file = tmp_path / "last.pt"
    save(file, {"position": (0, 0, 1), "x": torch.zeros(10)})
    with room_for(100_000), pytest.raises(OSError, match=rf"File too large: '{file}'") as e:
        save(file, {"position": (0, 0, 2), "x": torch.zeros(200_000)})
    assert e.value.errno == errno.EFBIG
    assert load(file)["position"] == (0, 0, 1)
    assert list(tmp_path.iterdir()) == [file]


def test_the_log_is_whole_when_a_run_goes_on_without_room(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {i}}}\n' for i in range(100)]
    log.write_text("".join(lines))
    with room_for(500), pytest.raises(OSError, match=r"metrics\.jsonl"):
        _drop_lines_after(log, 0, 90)
    assert log.read_text() == "".join(lines)
    _drop_lines_after(log, 0, 90)
    assert log.read_text() == "".join(lines[:91])


def test_folders_settle_where_nothing_is(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "x").write_text(name)
        return folder

    (tmp_path / "empty").mkdir()
    assert settle(made("a"), tmp_path / "new")
    assert settle(made("b"), tmp_path / "empty")
    assert not settle(made("c"), tmp_path / "new")
    assert [(tmp_path / name / "x").read_text() for name in ("new", "empty", "c")] == ["a", "b", "c"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):
        settle(made("d"), tmp_path / "file")


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the same folder, and gives it its name a moment before this one does."""
    replace = os.replace

    def late(made: str | Path, final: str | Path) -> None:
        if Path(made).is_dir():
            shutil.copytree(made, final, dirs_exist_ok=True)
        replace(made, final)

    monkeypatch.setattr(os, "replace", late)


@pytest.mark.usefixtures("overtaken")
def test_the_faster_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "people").mkdir()
    root = write_synthetic(tmp_path / "people", identities=4, cameras=2, videos=1, images=1, size=(32, 16))
    assert (root / "synthetic.json").exists()

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x.jpg", b"x")
    with pytest.raises(DataError, match=r"out exists already, so nothing was unpacked"):
        extract_archive(tmp_path / "a.zip", tmp_path / "out")

    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))

    def build(writer: IndexWriter) -> None:
        writer.add(["1.jpg", "2.jpg"], pid=[1, 2], camid=0)

    records = indexed("test-1", tmp_path, build)
    assert records.pid.tolist() == [1, 2]
    assert not list(tmp_path.rglob(".*partial*")), "what was not needed is gone"
