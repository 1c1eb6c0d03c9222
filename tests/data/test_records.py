from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reidzoo.data import Records, ReIDDataset
from reidzoo.data.records import PathColumn
from reidzoo.errors import DataError

NAMES = st.lists(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12), max_size=30
)


def make(n: int = 5) -> Records:
    return Records.from_columns(
        [f"/d/{i}.jpg" for i in range(n)], [7, 3, 3, 9, 7][:n], [0, 1, 0, 5, 1][:n], video=range(n)
    )


@given(NAMES, st.data())
def test_paths_behave_like_a_list_of_strings(names: list[str], data: st.DataObject) -> None:
    column = PathColumn.from_strings(names)
    assert len(column) == len(names)
    assert list(column) == names
    assert [column[i] for i in range(-len(names), len(names))] == names + names
    index = data.draw(st.lists(st.integers(0, len(names) - 1), max_size=40) if names else st.just([]))
    selected = column.select(np.array(index, dtype=np.int64))
    assert list(selected) == [names[i] for i in index]
    assert selected == PathColumn.from_strings([names[i] for i in index])
    assert list(column[1:4]) == names[1:4]


def test_iteration_and_selection_across_blocks() -> None:
    names = [str(i) * (i % 3) for i in range(140_000)]
    column = PathColumn.from_strings(names)
    assert list(column) == names
    order = np.random.default_rng(0).permutation(len(names))
    assert list(column.select(order)) == [names[i] for i in order]


def test_names_that_are_no_utf8_survive() -> None:
    name = os.fsdecode(b"/d/\xff\xfe.jpg")
    assert os.fsencode(PathColumn.from_strings([name])[0]) == b"/d/\xff\xfe.jpg"


def test_path_index_out_of_range() -> None:
    with pytest.raises(IndexError):
        make().path[5]


def test_columns_are_compact() -> None:
    paths = [f"/data/cion/sec{i % 130}/{i:09d}.jpg" for i in range(50_000)]
    records = Records.from_columns(paths, np.arange(50_000), np.zeros(50_000))
    assert len(pickle.dumps(records)) < 50_000 * (len(paths[-1]) + 3 * 8 + 1)


def test_select_by_mask_and_by_index() -> None:
    records = make()
    by_mask = records.select(records.pid == 3)
    assert by_mask == records.select([1, 2])
    assert list(by_mask.path) == ["/d/1.jpg", "/d/2.jpg"]
    assert by_mask.extras["video"].tolist() == [1, 2]
    assert len(records.select([])) == 0
    assert records.select([-1]).pid.tolist() == [7]
    with pytest.raises(IndexError):
        records.select([True, False])
    with pytest.raises(IndexError):
        records.select([5])


def test_equality_and_pickle() -> None:
    records = make()
    assert pickle.loads(pickle.dumps(records)) == records == make()
    assert records != make(4)
    assert records != Records.from_columns(records.path, records.pid, records.camid)
    assert records != "records"


def test_counts_leave_out_junk_and_unknown_cameras() -> None:
    records = Records.from_columns("abcd", [-1, 0, 4, 4], [-1, 2, 2, 3])
    assert (records.num_pids, records.num_cams) == (2, 2)
    assert repr(records) == "Records(4 images, 2 ids, 2 cameras)"


def test_relabel_numbers_identities_in_sorted_order() -> None:
    records = make()
    assert records.relabel().pid.tolist() == [1, 0, 0, 2, 1]
    assert records.relabel().pid.dtype == np.int64
    assert records.pid.tolist() == [7, 3, 3, 9, 7]
    assert len(Records.empty().relabel()) == 0


def test_relabel_refuses_junk() -> None:
    with pytest.raises(DataError, match=r"1 of 2 images are junk .*select\(records.pid >= 0\)"):
        Records.from_columns("ab", [-1, 2], [0, 0]).relabel()


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(DataError, match="path 2, pid 3, camid 2"):
        Records.from_columns("ab", [1, 2, 3], [0, 0])
    with pytest.raises(DataError, match=r"pid -2 at row 1 \(b\)"):
        Records.from_columns("ab", [1, -2], [0, 0])


@pytest.mark.parametrize("pid", [[1.5, 2.0], [1.0, float("nan")], ["anna", "bert"], ["1", "2"]])
def test_pids_that_are_no_integers_are_refused(pid: list) -> None:
    with pytest.raises(DataError, match="pid has values that are no integers"):
        Records.from_columns("ab", pid, [0, 0])
    assert Records.from_columns("ab", [1.0, 2.0], [0, 0]).pid.dtype == np.int64


def test_summary() -> None:
    gallery = Records.from_columns("abcdef", [-1, 0, 0, 3, 5, 5], [0, 1, 2, 0, 1, 1])
    data = ReIDDataset("toy", Path("/d"), make(), Records.from_columns("ab", [3, 5], [1, 2]), gallery)
    assert data.summary().splitlines() == [
        "toy  /d",
        "split          images        ids  cameras",
        "train               5          3        3",
        "query               2          2        2",
        "gallery             6          3        3  of which 1 junk, 2 distractors",
    ]
