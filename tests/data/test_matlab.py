"""Our reader of MATLAB 5 files against files that scipy writes, whole and damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from reidzoo.data.datasets._matlab import read_mat
from reidzoo.errors import DataError, DataNotFoundError

VALUES: dict[str, Any] = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "cube": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    "small": np.array([[1, -2]], dtype=np.int8),
    "single": np.float32([[0.5, np.nan, np.inf]]),
    "long": np.arange(300, dtype=np.int64).reshape(1, -1),
    "empty": np.zeros((0, 3)),
    "text": "héllo",
    "nothing": "",
    "rows": np.array(["abc", "de"]),
    "cell": np.array([["a.png", "c.png"], ["bb.png", "d.png"]], dtype=object),
    "struct": {"number": 1.5, "a_longer_name": "s"},
}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(compressed: bool, tmp_path: Path) -> None:
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, VALUES, do_compression=compressed)
    read = read_mat(file, VALUES)
    assert list(read) == list(VALUES)
    for name in ("matrix", "cube", "small", "single", "long", "empty"):
        np.testing.assert_array_equal(read[name], VALUES[name], strict=True)
    assert (read["text"], read["nothing"], read["rows"]) == ("héllo", "", ["abc", "de "])
    assert read["cell"].tolist() == VALUES["cell"].tolist()
    assert read["struct"] == {"number": np.array([[1.5]]), "a_longer_name": "s"}
    assert list(read_mat(file, ["text", "absent"])) == ["text"]


def test_cells_of_structures_and_arrays_of_them(tmp_path: Path) -> None:
    trials = np.empty((1, 3), dtype=object)
    for i in range(3):
        trials[0, i] = {"trainIdxAll": np.arange(4.0) + i}
    array = np.array([(1, "a"), (2, "b")], dtype=[("k", "O"), ("n", "O")])
    scipy.io.savemat(tmp_path / "x.mat", {"trials": trials, "array": array})
    read = read_mat(tmp_path / "x.mat", ("trials", "array"))
    assert read["trials"].shape == (1, 3)
    assert read["trials"][0, 2]["trainIdxAll"].tolist() == [[2, 3, 4, 5]]
    assert [row["n"] for row in read["array"].reshape(-1)] == ["a", "b"]


def test_other_files(tmp_path: Path) -> None:
    file = tmp_path / "x.mat"
    with pytest.raises(DataNotFoundError, match=f"no file {file}"):
        read_mat(file, ["a"])
    for content in (b"", b"text" * 100):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{file} cannot be read as a MATLAB 5 file: it has no such header"):
            read_mat(file, ["a"])
    with h5py.File(file, "w") as other:
        other["a"] = [1]
    with pytest.raises(DataError, match=r"it is of version 7.3"):
        read_mat(file, ["a"])
    scipy.io.savemat(file, {"a": scipy.sparse.eye(3).tocsc(), "b": 1})
    assert read_mat(file, ["b"]) == {"b": 1}
    with pytest.raises(DataError, match="an array of class 5"):
        read_mat(file, ["a"])


def test_cut_text_is_no_shorter_text(tmp_path: Path) -> None:
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, {"a": "x" * 1000})
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DataError, match="it ends too early"):
        read_mat(file, ["a"])


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, {"a": np.zeros(100_000)}, do_compression=True)
    assert file.stat().st_size < 2_000
    assert read_mat(file, ["a"])["a"].size == 100_000
    monkeypatch.setattr("reidzoo.data.datasets._matlab._MOST_BYTES", 100_000)
    with pytest.raises(DataError, match="larger than 100000 bytes"):
        read_mat(file, ["a"])


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files(compressed: bool, tmp_path: Path) -> None:
    """Cut or flipped bytes anywhere: a DataError, or other values; never another exception."""
    file = tmp_path / "x.mat"
    scipy.io.savemat(file, VALUES, do_compression=compressed)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(400):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))] if i % 3 == 0 else whole)
        for at in rng.integers(0, len(damaged), int(rng.integers(8))):
            damaged[at] = int(rng.choice([0, 1, 14, 15, 128, 255])) if i % 2 else int(rng.integers(256))
        file.write_bytes(damaged)
        try:
            read_mat(file, VALUES)
        except DataError:
            refused += 1
    assert 100 < refused < 400
