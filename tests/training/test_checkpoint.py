from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from reidzoo._files import atomic
from reidzoo.errors import CheckpointError, ConfigError, TrainingError
from reidzoo.training._checkpoint import RunFolder, load, save

RUN = {"method": "cion", "model": "resnet18", "config": {"lr": 0.1, "num_workers": 2}}


def opened(path: Path, run: dict = RUN, resume: str = "auto", overwrite: bool = False) -> bool:
    return RunFolder(path).open(run, resume=resume, overwrite=overwrite)


def test_round_trip(tmp_path: Path) -> None:
    state = {"position": (1, 2, 3), "method": {"w": torch.arange(4.0)}, "optimizer": {"lr": 0.1}}
    save(tmp_path / "a" / "last.pt", state)
    back = load(tmp_path / "a" / "last.pt")
    assert tuple(back["position"]) == (1, 2, 3)
    assert torch.equal(back["method"]["w"], state["method"]["w"])
    assert [f.name for f in (tmp_path / "a").iterdir()] == ["last.pt"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("old")

    def write_half() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_sigkill_while_writing_never_leaves_half_a_checkpoint(tmp_path: Path) -> None:
    """A process saves without pause and is killed at random moments: what is there is always whole."""
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom reidzoo.training._checkpoint import save\n"
        "i = 0\n"
        "while True:\n"
        "    i += 1\n"
        "    save(Path(sys.argv[1]), {'position': (0, 0, i), 'x': torch.full((500_000,), float(i))})\n"
    )
    file = tmp_path / "checkpoints" / "last.pt"
    for delay in (0.03, 0.11, 0.2):
        with subprocess.Popen([sys.executable, "-c", code, str(file)]) as process:
            while not file.exists():
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
        state = load(file)
        assert state["x"].shape == (500_000,)
        assert (state["x"] == state["position"][2]).all()


def test_damaged_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save(file, {"position": (0, 0, 1), "x": torch.zeros(1000)})
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(file)
    save(file, {"weights": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="not the checkpoint of a run"):
        load(file)


def test_new_folder_then_resume(tmp_path: Path) -> None:
    assert opened(tmp_path / "run") is False
    assert opened(tmp_path / "run") is False  # no checkpoint yet
    save(RunFolder(tmp_path / "run").last, {"position": (0, 0, 1)})
    assert opened(tmp_path / "run") is True
    assert opened(tmp_path / "run", {**RUN, "config": {"lr": 0.1, "num_workers": 0}}) is True


def test_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    opened(tmp_path / "run")
    opened(tmp_path / "run", {**RUN, "model": "volo_d1"})  # nothing was trained yet
    opened(tmp_path / "run")
    save(RunFolder(tmp_path / "run").last, {"position": (0, 0, 1)})
    with pytest.raises(TrainingError, match=r"model: 'resnet18' -> 'resnet50'.*overwrite=True"):
        opened(tmp_path / "run", {**RUN, "model": "resnet50"})
    with pytest.raises(TrainingError, match=r"config.lr: 0.1 -> 0.2"):
        opened(tmp_path / "run", {**RUN, "config": {"lr": 0.2, "num_workers": 2}})


def test_settings_that_were_edited_badly(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    opened(folder.path)
    folder.config.write_text('{"config": {lr: 1}}')
    assert folder.record() is None  # nothing was trained yet
    save(folder.last, {"position": (0, 0, 1)})
    with pytest.raises(CheckpointError, match=r"config\.json is damaged .*Repair it, or .*--overwrite"):
        folder.record()
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        opened(folder.path)
    assert folder.open(RUN, resume="auto", overwrite=True) is False


def test_what_may_differ(tmp_path: Path) -> None:
    run = {**RUN, "ranks": 8, "config": {"lr": 0.1, "micro_batch": 0, "gone": 1}}
    opened(tmp_path / "run", run)
    save(RunFolder(tmp_path / "run").last, {"position": (0, 0, 1)})
    # Another version's settings, and ways to compute the same.
    newer = {**run, "config": {"lr": 0.1, "micro_batch": 0, "compile": True, "new": 2}}
    assert opened(tmp_path / "run", newer)
    # One rank instead of eight may need smaller forward passes; the same eight do not.
    smaller = {**newer, "config": {**newer["config"], "micro_batch": 8}}
    with pytest.raises(TrainingError, match=r"\(config.micro_batch: 0 -> 8\)"):
        opened(tmp_path / "run", smaller)
    assert opened(tmp_path / "run", {**smaller, "ranks": 1})
    assert RunFolder(tmp_path / "run").record() == {**smaller, "ranks": 1}


def test_overwrite_starts_anew_and_keeps_what_is_not_the_runs(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    opened(folder.path)
    save(folder.last, {"position": (0, 0, 1)})
    for file in (folder.metrics, folder.images, folder.failed):
        file.write_text("{}\n")
    (folder.path / "notes.txt").write_text("mine")
    assert opened(folder.path, {**RUN, "model": "resnet50"}, overwrite=True) is False
    assert json.loads(folder.config.read_text())["model"] == "resnet50"
    assert not any(file.exists() for file in (folder.metrics, folder.images, folder.failed, folder.last))
    assert folder.record() is None
    assert (folder.path / "notes.txt").read_text() == "mine"


def test_never_resume(tmp_path: Path) -> None:
    opened(tmp_path / "run")
    save(RunFolder(tmp_path / "run").last, {"position": (0, 0, 1)})
    with pytest.raises(TrainingError, match="holds a run already"):
        opened(tmp_path / "run", resume="never")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="not a run"):
            opened(tmp_path, overwrite=overwrite)
    assert (tmp_path / "photo.jpg").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(TrainingError, match="is a file"):
        opened(tmp_path / "file")


def test_killed_while_the_folder_was_claimed(tmp_path: Path) -> None:
    (tmp_path / ".config.json.12-34.tmp").write_text("{")
    assert opened(tmp_path) is False
    assert [f.name for f in tmp_path.iterdir()] == ["config.json"]


def test_killed_while_it_was_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is gone already, what is left is a run's folder."""
    unlink = Path.unlink
    for survivors in range(8):
        folder = RunFolder(tmp_path / str(survivors))
        opened(folder.path)
        save(folder.last, {"position": (0, 0, 1)})
        for file in (folder.metrics, folder.images, folder.failed, folder.curves, folder.model):
            file.write_text("{}\n")
        left = survivors

        def killed(path: Path, missing_ok: bool = False) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "unlink", killed)
            opened(folder.path, overwrite=True)
        assert opened(folder.path) is folder.last.exists()


def test_missing_on_this_machine(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"last\.pt is missing on this machine.*disk that they share"):
        load(tmp_path / "last.pt")


def test_orphans_of_a_killed_write_are_swept(tmp_path: Path) -> None:
    opened(tmp_path / "run")
    orphan = tmp_path / "run" / "checkpoints" / ".last.pt.123.tmp"
    orphan.parent.mkdir()
    orphan.write_bytes(b"half")
    opened(tmp_path / "run")
    assert not orphan.exists()
