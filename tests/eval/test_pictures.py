"""The pictures, looked at by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from reidzoo.data.records import Records
from reidzoo.errors import DataError
from reidzoo.eval import chart, draw_ranking, line_chart, ranking


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(image, colour, near=3):
    return int((np.abs(image - ImageColor.getrgb(colour)).max(axis=2) <= near).sum())


def test_ranking_frames_tell_right_from_wrong_and_junk_is_left_out(crops, tmp_path):
    query = crops.select([0])  # person 1, camera 0
    #         right      wrong      same camera: junk   right
    gallery = crops.select([8, 9, 24, 16])
    distances, indices = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([[0, 1, 2, 3]])
    path = draw_ranking(query, gallery, distances, indices, tmp_path / "list.png", title="a title")
    frame = 2 * ranking._FRAME * (ranking._W + ranking._H + 2 * ranking._FRAME)
    image = pixels(path)
    assert count(image, ranking._RIGHT) == pytest.approx(2 * frame, rel=0.02)
    assert count(image, ranking._WRONG) == pytest.approx(frame, rel=0.02)
    assert count(image, ranking._QUERY, near=0) >= frame
    assert [p.name for p in tmp_path.iterdir()] == ["list.png"]


def test_ranking_without_cameras_keeps_all(crops, tmp_path):
    alone = Records.from_columns(crops.path[:16], crops.pid[:16], np.full(16, -1))
    query, gallery = alone.select([0]), alone.select([8, 0])
    image = pixels(draw_ranking(query, gallery, np.zeros((1, 2)), np.array([[0, 1]]), tmp_path / "list.png"))
    assert count(image, ranking._WRONG) == 0
    assert count(image, ranking._RIGHT) > 2000


def test_ranking_needs_a_row_per_query(crops, tmp_path):
    with pytest.raises(DataError, match="2 queries with 1 rows"):
        draw_ranking(crops.select([0, 1]), crops, np.zeros((1, 2)), np.zeros((1, 2), int), tmp_path / "x.png")


def test_line_goes_where_the_numbers_say(tmp_path):
    x = np.linspace(0, 100, 50)
    image = pixels(line_chart({"loss": (x, 10 - x / 10)}, tmp_path / "c.png", xlabel="step", ylabel="loss"))
    rows, columns = np.nonzero(np.abs(image - ImageColor.getrgb(chart._COLOURS[0])).max(axis=2) <= 30)
    unit = chart._FINE / chart._REDUCE
    left, right = chart._LEFT * unit, (chart._WIDTH - chart._RIGHT) * unit
    top, bottom = chart._TOP * unit, (chart._HEIGHT - chart._BOTTOM) * unit
    expected = top + (columns - left) / (right - left) * (bottom - top)  # from 10 down to 0, over the whole panel
    assert len(rows) > 400
    assert columns.min() == pytest.approx(left, abs=3)
    assert columns.max() == pytest.approx(right, abs=3)
    assert np.abs(rows - expected).max() < 4


def test_several_panels_side_by_side(tmp_path):
    one = line_chart({"a": ([0, 1], [0, 1])}, tmp_path / "one.png", title="t")
    panels = [{"series": {"a": ([0, 1], [0, 1])}, "ylabel": "%"}, {"series": {"b": ([0, 1], [0, 1]), "c": ([0], [5])}}]
    two = line_chart(panels, tmp_path / "two.png", title="t", xlabel="step")
    a, b = pixels(one), pixels(two)
    assert (b.shape[0], b.shape[1]) == (a.shape[0], 2 * a.shape[1])
    assert count(b, chart._COLOURS[1]) > 0


@pytest.mark.parametrize(
    "series",
    [
        {},
        {"none": ([], [])},
        {"gap": ([0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0])},
        {"flat": ([5], [0.0])},
        {"huge": ([0, 1e9], [1e-12, 1e30])},
        {"tiny": ([0, 1], [1e-9, 2e-9])},
    ],
)
def test_awkward_numbers(series, tmp_path):
    assert pixels(line_chart(series, tmp_path / "c.png")).std() > 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 10], ["0", "5", "10"]),
        ([0.1, 0.95], ["0.0", "0.5", "1.0"]),
        ([0, 7e-4], ["0.0000", "0.0002", "0.0004", "0.0006", "0.0008"]),
        ([0, 3e7], ["0", "1e+07", "2e+07", "3e+07"]),
    ],
)
def test_ticks_are_round_numbers_around_the_data(values, expected):
    ticks = chart._ticks([np.array(values, float)])
    assert chart._labels(ticks) == expected
