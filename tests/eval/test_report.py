from __future__ import annotations

import json

import pytest

from reidzoo.eval import comparison_table, compute_metrics

GALLERY = [[float(i)] for i in range(1, 13)]


def result(match, **kwargs):
    """One query whose true matches stand at the places `match`."""
    return compute_metrics(
        [[0.0]], GALLERY, [1], [1 if i in match else 2 for i in range(12)], metric="euclidean", **kwargs
    )


def test_table():
    assert result({1, 5}).table() == (
        " mAP  Rank-1  Rank-5  Rank-10  mINP\n"
        "-----------------------------------\n"
        "41.7     0.0   100.0    100.0  33.3"
    )  # fmt: skip


def test_comparison_table_is_aligned():
    table = comparison_table({"pre-trained": result({0}), "untrained": result({11})})
    header, rule, *rows = table.splitlines()
    assert len({len(line) for line in (header, rule, *rows)}) == 1
    assert rows[0].split() == ["pre-trained", "100.0", "100.0", "100.0", "100.0", "100.0"]
    assert rows[1].split() == ["untrained", "8.3", "0.0", "0.0", "0.0", "8.3"]


def test_a_short_curve_shows_the_ranks_it_has():
    assert "Rank-10" not in result({0}, max_rank=5).table()


def test_saved_numbers_read_back(tmp_path):
    metrics = compute_metrics([[0.0], [0.0]], GALLERY, [1, 9], [2, 1, *[3] * 10], metric="euclidean")
    path = metrics.save(tmp_path / "new" / "folder")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]
    saved = json.loads(path.read_text())
    assert saved["mAP"] == pytest.approx(metrics.mAP)
    assert saved["Rank-5"] == 1
    assert saved["cmc"][:3] == [0, 0, 1]
    assert saved["per_query_ap"] == [0.5, None]
    assert (saved["num_queries"], saved["num_valid"], saved["convention"]) == (2, 1, "rectangle")
    assert json.loads(json.dumps(metrics.to_dict())) == metrics.to_dict()
