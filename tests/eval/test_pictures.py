"""The pictures, looked at by their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from reidzoo.data.records import Records
from reidzoo.errors import DataError
from reidzoo.eval import chart, draw_ranking, line_chart, ranking
from reidzoo.eval.chart_grid import matrix_chart, scatter_chart
from reidzoo.eval.ranking import ranking_lists


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


def test_ranking_with_junk_greys_it_and_counts_past_it(crops, tmp_path):
    query = crops.select([0])  # person 1, camera 0
    #          same camera  wrong      right       nobody's
    paths, pid, cam = [crops.path[i] for i in (24, 9, 8, 10)], [1, 2, 1, -1], [0, 1, 1, 1]
    gallery = Records.from_columns(paths, pid, cam)
    found = np.arange(4.0)[None] / 10, np.arange(4)[None]
    path = draw_ranking(query, gallery, *found, tmp_path / "list.png", junk=True, ap=[0.5])
    frame = 2 * ranking._FRAME * (ranking._W + ranking._H + 2 * ranking._FRAME)
    image = pixels(path)
    for colour in (ranking._RIGHT, ranking._WRONG):
        assert count(image, colour, near=0) == pytest.approx(frame, rel=0.02)
    assert count(image, ranking._IGNORED, near=0) >= 1.95 * frame  # the pictures within are grey as well
    grey = image[ranking._HEAD + 40 : ranking._HEAD + 140, ranking._column(1) + 8 : ranking._column(1) + 90]
    assert np.ptp(grey, axis=2).max() == 0
    assert grey.min() >= 120
    without = pixels(draw_ranking(query, gallery, *found, tmp_path / "b.png", junk=True))
    below = slice(ranking._HEAD + ranking._H + 8, ranking._HEAD + ranking._H + 8 + ranking._CAPTION)
    assert (image[below] != without[below]).any()
    assert (image[: below.start] == without[: below.start]).all()


@pytest.mark.parametrize(("junk", "same_camera"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("top", [1, 4, 50])
def test_ranking_lists_by_the_plain_rules(junk, same_camera, top):
    rng = np.random.default_rng(0)
    query = Records.from_columns(["q"] * 20, rng.integers(0, 4, 20), rng.integers(-1, 3, 20))
    gallery = Records.from_columns(["g"] * 40, rng.integers(-1, 4, 40), rng.integers(-1, 3, 40))
    indices = np.stack([rng.permutation(40)[:25] for _ in range(20)])
    distances = np.sort(rng.random((20, 25)), axis=1)
    lists = ranking_lists(query, gallery, distances, indices, top=top, junk=junk, same_camera=same_camera)
    for q in range(20):
        expected, rank = [], 0
        for g, d in zip(indices[q], distances[q], strict=True):
            right = gallery.pid[g] == query.pid[q]
            alike = gallery.camid[g] == query.camid[q] != -1 and not same_camera
            counts = gallery.pid[g] != -1 and not (right and alike)
            if rank == top:
                break
            rank += counts
            if counts or junk:
                expected.append((g, d, right, rank if counts else 0))
        assert [tuple(hit) for hit in lists[q]] == expected


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


def test_marks_and_areas(tmp_path):
    x = np.linspace(0, 100, 51)
    panel = {"series": {"a": (x, 10 - x / 10)}, "marks": {"here": 75.0}, "fill": True, "ylim": (0, 20)}
    image = pixels(line_chart([panel], tmp_path / "c.png"))
    unit = chart._FINE / chart._REDUCE
    left, right = chart._LEFT * unit, (chart._WIDTH - chart._RIGHT) * unit
    top, bottom = chart._TOP * unit, (chart._HEIGHT - chart._BOTTOM) * unit
    dark = np.flatnonzero((image[int(top) + 60 : int(bottom) - 2].max(axis=2) < 120).sum(axis=0) > 80)
    assert dark.mean() == pytest.approx(left + 0.75 * (right - left), abs=2)

    def colour(share_x, share_y):  # of the panel, from its lower left corner
        return image[int(bottom - share_y * (bottom - top)), int(left + share_x * (right - left))].tolist()

    tint = [round(255 + (c - 255) * 0x40 / 255) for c in ImageColor.getrgb(chart._COLOURS[0])]
    assert np.abs(np.subtract(colour(0.2, 0.3), tint)).max() <= 2  # the line is there at 0.4 of a panel up to 20
    assert colour(0.2, 0.45) == [255] * 3
    assert colour(0.9, 0.2) == [255] * 3


def test_matrix_cells_have_the_colour_of_their_value(tmp_path):
    from reidzoo.eval import chart_grid as grid

    path = matrix_chart([[0, 50], [np.nan, 100]], ["a", "b"], ["x", "y"], tmp_path / "m.png", ylabel="query")
    image, unit = pixels(path), grid._FINE / grid._REDUCE

    def corner(row, column):
        y, x = grid._HEAD + row * grid._CELL_HEIGHT + 4, grid._SIDE + column * grid._CELL + 4
        return image[int(y * unit), int(x * unit)].tolist()

    middle = [round((a + b) / 2) for a, b in zip(grid._LOW, grid._HIGH, strict=True)]
    assert corner(0, 0) == list(grid._LOW)
    assert corner(1, 1) == list(grid._HIGH)
    assert np.abs(np.subtract(corner(0, 1), middle)).max() <= 1
    assert corner(1, 0) == list(ImageColor.getrgb(grid._EMPTY))


def test_scatter_keeps_places_and_scale(tmp_path):
    from reidzoo.eval import chart_grid as grid

    # the name in the middle hides neither of an identity's two points
    points = np.repeat([[0, 0], [4, 0], [0, 2.0]], 2, axis=0) + np.tile([[0, 0.4], [0, -0.4]], (3, 1))
    path = scatter_chart(points, np.repeat([7, 8, 9], 2), tmp_path / "s.png", ringed=np.arange(6) < 2)
    image, at = pixels(path), []
    for k in range(3):
        rows, columns = np.nonzero(np.abs(image - ImageColor.getrgb(grid._colour(k, 3))).max(axis=2) <= 12)
        assert len(rows) > 5
        at.append(((columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2))
    (x0, y0), (x1, y1), (x2, y2) = at
    assert x1 - x0 == pytest.approx(2 * (y0 - y2), rel=0.05)
    assert abs(y1 - y0) < 6
    assert abs(x2 - x0) < 6
    assert pixels(scatter_chart(np.zeros((0, 2)), [], tmp_path / "none.png")).min() == 255
    assert pixels(scatter_chart([[1, 1], [1, 1]], ["a", "a"], tmp_path / "same.png")).min() < 200


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
