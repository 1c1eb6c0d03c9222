from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidzoo.data import load_dataset, write_synthetic
from reidzoo.data._drawing import Pose, draw_person
from reidzoo.data._person import Person
from reidzoo.data._shots import Recipe, plan_shots
from reidzoo.errors import ConfigError, DataError

SMALL = {"identities": 4, "cameras": 3, "images": 2, "distractors": 3, "junk": 3}


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows_of(root: Path) -> list[dict[str, str]]:
    with open(root / "synthetic.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "market", identities=60, tracklets=2, images=3)


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    a = write_synthetic(tmp_path / "a", seed=5, **SMALL)
    b = write_synthetic(tmp_path / "b", seed=5, **SMALL)
    assert digest(a) == digest(b)
    assert len(digest(a)) > 20


def test_other_seed_gives_other_images(tmp_path: Path) -> None:
    a = digest(write_synthetic(tmp_path / "a", seed=5, **SMALL))
    b = digest(write_synthetic(tmp_path / "b", seed=6, **SMALL))
    images = {h for name, h in a.items() if name.endswith(".jpg")}
    assert not images & {h for name, h in b.items() if name.endswith(".jpg")}


def test_camera_seed_keeps_the_places_and_changes_the_people(tmp_path: Path) -> None:
    # Junk boxes and bodies cover only a part: the upper corners of many images show the place.
    def corners(seed: int, camera_seed: int | None) -> np.ndarray:
        root = write_synthetic(
            tmp_path / f"{seed}-{camera_seed}", seed=seed, camera_seed=camera_seed, **{**SMALL, "identities": 12}
        )
        by_camera = defaultdict(list)
        for row in rows_of(root):
            pixels = np.asarray(Image.open(root / row["path"]), dtype=float)
            by_camera[row["camid"]].append(np.concatenate([pixels[:24, :12], pixels[:24, -12:]], 1).mean((0, 1)))
        return np.array([np.mean(by_camera[c], axis=0) for c in sorted(by_camera)])

    mine, same, other = corners(1, 7), corners(2, 7), corners(2, 8)
    assert np.abs(mine - same).mean() < 0.5 * np.abs(mine - other).mean()


@pytest.mark.parametrize("layout", ["market1501", "folder"])
def test_workers_do_not_change_the_bytes(tmp_path: Path, layout: str) -> None:
    one = write_synthetic(tmp_path / "one", layout=layout, identities=3, cameras=2, images=2)
    two = write_synthetic(tmp_path / "two", layout=layout, identities=3, cameras=2, images=2, workers=2)
    assert digest(one) == digest(two)


def test_market_names_and_splits(market: Path) -> None:
    name = re.compile(r"(-1|\d{4})_c([1-6])s([1-3])_(\d{6})_(\d{2,})\.jpg")
    files = [p.relative_to(market).as_posix() for p in market.rglob("*.jpg")]
    rows = rows_of(market)
    assert sorted(files) == sorted(row["path"] for row in rows)
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    for row in rows:
        folder, file = row["path"].split("/")
        match = name.fullmatch(file)
        assert match, file
        assert folder == folders[row["split"]]
        assert int(match[1]) == int(row["pid"])
        assert int(match[2]) - 1 == int(row["camid"])
        assert (int(match[2]) - 1) * 3 + int(match[3]) - 1 == int(row["video"])


def test_train_and_test_identities_are_disjoint_halves(market: Path) -> None:
    people = defaultdict(set)
    for row in rows_of(market):
        if row["role"] == "person":
            people[row["split"]].add(int(row["pid"]))
    assert people["train"] | people["gallery"] == set(range(1, 61))
    assert not people["train"] & people["gallery"]
    assert len(people["train"]) == 30
    assert people["query"] == people["gallery"]


def test_one_query_per_identity_and_camera_with_a_match_elsewhere(market: Path) -> None:
    rows = rows_of(market)
    queries = Counter((row["pid"], row["camid"]) for row in rows if row["split"] == "query")
    seen = {(row["pid"], row["camid"]) for row in rows if row["split"] == "gallery" and row["role"] == "person"}
    assert set(queries.values()) == {1}
    assert set(queries) == seen
    assert min(Counter(pid for pid, _ in seen).values()) >= 2


def test_tracklets_are_one_person_in_one_video(market: Path) -> None:
    tracklets = defaultdict(list)
    for row in rows_of(market):
        if row["role"] == "person":
            tracklets[row["tracklet"]].append((row["pid"], row["camid"], row["video"]))
    assert {len(images) for images in tracklets.values()} == {3}
    assert all(len(set(images)) == 1 for images in tracklets.values())


def test_distractors_and_junk(market: Path) -> None:
    rows = rows_of(market)
    roles = Counter(row["role"] for row in rows)
    assert roles["distractor"] == roles["junk"] == 60
    assert {(row["pid"], row["split"]) for row in rows if row["role"] == "distractor"} == {("0", "gallery")}
    assert {(row["pid"], row["split"]) for row in rows if row["role"] == "junk"} == {("-1", "gallery")}


def test_the_readers_read_it(market: Path) -> None:
    data = load_dataset(f"synthetic:{market}")
    rows = rows_of(market)
    for split in ("train", "query", "gallery"):
        records = getattr(data, split)
        names = [Path(path).relative_to(market).as_posix() for path in records.path]
        columns = (records.pid, records.camid, records.extras["video"], records.extras["tracklet"])
        read = set(zip(names, *(column.tolist() for column in columns), strict=True))
        truth = {
            (row["path"], *(int(row[key]) for key in ("pid", "camid", "video", "tracklet")))
            for row in rows
            if row["split"] == split
        }
        assert read == truth


def test_folder_layout(tmp_path: Path) -> None:
    root = write_synthetic(tmp_path / "people", layout="folder", identities=5, cameras=12, images=2)
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == ["0001", "0002", "0003", "0004", "0005"]
    for row in rows_of(root):
        assert row["split"] == "train"
        assert row["role"] == "person"
        assert row["path"].startswith(f"{int(row['pid']):04d}/")
        assert f"_c{int(row['camid']) + 1}s" in row["path"]


@pytest.mark.parametrize("size", [(128, 64), (64, 32), (96, 64)])
def test_images_decode_at_the_size_asked_for(tmp_path: Path, size: tuple[int, int]) -> None:
    root = write_synthetic(tmp_path / "people", size=size, **SMALL)
    for path in root.rglob("*.jpg"):
        image = Image.open(path)
        image.load()
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == size[::-1]
        assert np.asarray(image).std() > 4


def test_videos_do_not_show_two_boxes_in_one_frame(market: Path) -> None:
    frames = Counter(
        row["path"].rsplit("_", 1)[0].split("/")[1].split("_", 1)[1] for row in rows_of(market) if row["role"] != "junk"
    )
    assert max(frames.values()) == 1


# Bad input, existing folders, interruption.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"identities": 1}, "identities = 1"),
        ({"cameras": 10}, "at most 9"),
        ({"images": 1, "tracklets": 1}, "a query and an image to find"),
        ({"size": (8, 4)}, "size"),
        ({"layout": "market"}, "Did you mean 'market1501'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_values_out_of_range_are_named(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        write_synthetic(tmp_path / "people", **{**SMALL, **changes})
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(DataError, match="not a synthetic data set"):
        write_synthetic(tmp_path / "mine", **SMALL)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_same_data_set_is_returned_untouched_and_another_refused(tmp_path: Path) -> None:
    root = write_synthetic(tmp_path / "people", **SMALL)
    image = next(root.rglob("*.jpg"))
    stamp = image.stat().st_mtime_ns
    assert write_synthetic(root, **SMALL) == root
    assert image.stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="other parameters"):
        write_synthetic(root, seed=1, **SMALL)


def test_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    root = write_synthetic(tmp_path / "people", **SMALL)
    assert json.loads((root / "synthetic.json").read_text())["identities"] == 4


def stop_in_the_middle(folder: Path, signal: str, workers: int) -> subprocess.CompletedProcess[str]:
    """Draw into `folder`/people in a process of its own that gets `signal` once it has written some images."""
    script = f"""
        import os, pathlib, signal, threading, time
        from reidzoo.data import write_synthetic

        def strike():
            while len(list(pathlib.Path({str(folder)!r}).glob(".people.partial-*/*/*.jpg"))) < 50:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.{signal})

        if __name__ == "__main__":
            threading.Thread(target=strike, daemon=True).start()
            write_synthetic({str(folder / "people")!r}, identities=400, workers={workers})
    """
    program = folder.parent / f"{folder.name}.py"
    program.write_text(textwrap.dedent(script))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, env=env, preexec_fn=_hear_ctrl_c
    )


def _hear_ctrl_c() -> None:
    """A background job of a shell, such as a CI, ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_nothing(tmp_path: Path, workers: int) -> None:
    (tmp_path / "out").mkdir()
    done = stop_in_the_middle(tmp_path / "out", "SIGINT", workers)
    assert "KeyboardInterrupt" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_kill_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert stop_in_the_middle(tmp_path / "out", "SIGKILL", 1).returncode < 0
    assert not (tmp_path / "out" / "people").exists()
    write_synthetic(tmp_path / "out" / "people", **SMALL)  # what was left is not in the way of a new start


# What is drawn.


def clean(person: Person, angle: float, phase: float) -> np.ndarray:
    """A person before any camera, on grey, (64, 32, 3)."""
    figure = draw_person(person, Pose(phase=phase, angle=angle), (128, 64))
    scene = Image.new("RGBA", figure.size, (128, 128, 128, 255))
    scene.alpha_composite(figure)
    return np.asarray(scene.convert("RGB").reduce(2), dtype=float)


def test_clean_pictures_tell_people_apart() -> None:
    people = [Person.random(np.random.default_rng([9, i])) for i in range(40)]
    first = np.array([clean(p, angle=0.3, phase=0.4) for p in people]).reshape(40, -1)
    later = np.array([clean(p, angle=0.1, phase=2.0) for p in people]).reshape(40, -1)
    distances = np.abs(first[:, None] - later[None]).mean(-1)
    assert (distances.argmin(1) == np.arange(40)).mean() > 0.9


def test_figure_stands_where_the_pose_says() -> None:
    person = Person.random(np.random.default_rng(3))
    for x, feet, height in ((0.5, 0.95, 0.9), (0.3, 0.8, 0.6)):
        body = np.asarray(draw_person(person, Pose(0.0, 0.0, x=x, feet=feet, height=height), (256, 128)))[..., 3] == 255
        rows, cols = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
        assert rows[-1] / 256 == pytest.approx(feet, abs=0.03)
        assert (rows[-1] - rows[0]) / 256 == pytest.approx(height, abs=0.06)
        assert (cols[0] + cols[-1]) / 2 / 128 == pytest.approx(x, abs=0.05)


def test_walk_is_smooth() -> None:
    person = Person.random(np.random.default_rng(4))
    near = np.abs(clean(person, math.pi / 2, 0.0) - clean(person, math.pi / 2, 0.1)).mean()
    far = np.abs(clean(person, math.pi / 2, 0.0) - clean(person, math.pi / 2, math.pi / 2)).mean()
    assert 0 < near < 0.5 * far


def test_front_and_back_differ() -> None:
    person = Person.random(np.random.default_rng(5))
    assert np.abs(clean(person, 0.0, 0.0) - clean(person, math.pi, 0.0)).mean() > 0.5


def test_colour_histogram_is_no_solution(market: Path) -> None:
    """mAP by Market's rule of the histogram of the whole image and of its middle, which mostly shows the person."""
    rows = [row for row in rows_of(market) if row["split"] != "train" and row["role"] != "junk"]
    pixels = [np.asarray(Image.open(market / row["path"])).astype(int) >> 5 for row in rows]
    pid, camid = (np.array([int(row[key]) for row in rows]) for key in ("pid", "camid"))
    query = np.array([row["split"] == "query" for row in rows])
    for crop in (np.s_[:], np.s_[16:, 18:46]):
        bins = np.array([np.bincount((p[crop].reshape(-1, 3) @ (64, 8, 1)), minlength=512) for p in pixels], float)
        bins /= bins.sum(1, keepdims=True)
        aps = []
        for i in np.flatnonzero(query):
            other = ~query & ~((pid == pid[i]) & (camid == camid[i]))
            order = np.argsort(np.abs(bins[other] - bins[i]).sum(1), kind="stable")
            ranks = np.flatnonzero((pid[other] == pid[i])[order]) + 1
            aps.append((np.arange(1, len(ranks) + 1) / ranks).mean())
        assert np.mean(aps) < 0.5


def test_training_people_are_drawn_from_all_numbers() -> None:
    recipe = Recipe("market1501", 100, 50, 6, 3, 2, 2, 0, 0, (128, 64), 0, 0)
    train = {shot.pid for shot in plan_shots(recipe) if shot.split == "train"}
    assert len(train) == 50
    assert 15 < sum(pid <= 50 for pid in train) < 35
