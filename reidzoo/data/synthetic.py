"""Drawn people on disk: a synthetic person data set in the layout of a real one.

Every image is drawn from its own random generator, keyed by (seed, person, camera, tracklet, frame), so the files are
the same bytes for any number of workers. No picture shows, or was made from, a real person.
"""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from reidzoo._files import settle
from reidzoo._logging import progress
from reidzoo.data._drawing import Pose
from reidzoo.data._layouts import LAYOUTS, Shot
from reidzoo.data._person import Person
from reidzoo.data._scenes import camera, shoot
from reidzoo.data._shots import Recipe, plan_shots
from reidzoo.errors import DataError

_COLUMNS = ("path", "pid", "camid", "video", "tracklet", "split", "role")


def write_synthetic(
    out_dir: str | Path,
    *,
    identities: int = 60,
    train_identities: int | None = None,
    layout: str = "market1501",
    seed: int = 0,
    cameras: int = 6,
    videos: int = 3,
    tracklets: int = 2,
    images: int = 4,
    distractors: int | None = None,
    junk: int | None = None,
    size: tuple[int, int] = (128, 64),
    camera_seed: int | None = None,
    workers: int = 1,
) -> Path:
    """Draw a person data set and write it as JPEG files.

    Each identity passes at least half of the cameras (and two). With a test set (``market1501``) a random half of the
    identities is for training; each test identity has one query image per camera, the others are the gallery, to
    which distractors (people who are no query, pid 0) and junk (badly cut boxes of gallery people, pid -1) are added.
    ``synthetic.csv`` holds the truth about every image, ``synthetic.json`` the parameters.

    Args:
        out_dir: Folder to make. It appears under this name when it is complete.
        identities: Number of labelled people.
        train_identities: How many of them are for training, where the layout has a test set; by default half.
        layout: ``"market1501"``, ``"folder"`` (one folder per identity, all for training), or that of another data set;
            ``reidzoo data synth --help`` lists them. Images that a layout has no place for are left out.
        seed: Decides people, walks and noise.
        cameras: Number of cameras, where the layout does not fix it.
        videos: Videos per camera, which differ in light.
        tracklets: Tracklets per identity and camera.
        images: Images per tracklet.
        distractors: Distractor images in the gallery; by default as many as identities.
        junk: Junk images in the gallery; by default as many as identities.
        size: (H, W) of the images in pixels.
        camera_seed: Decides the cameras; `seed` by default. Two data sets with one `camera_seed` show different
            people at the same places.
        workers: Processes to draw with; above 1 the calling script needs ``if __name__ == "__main__":``. The files do
            not depend on it.

    Returns:
        `out_dir`. If it holds exactly this data set already, nothing is written.

    Raises:
        ConfigError: A value is out of range, or the layout is unknown.
        DataError: `out_dir` holds something else.
    """
    root = Path(out_dir).expanduser()
    extra = identities if layout in LAYOUTS and LAYOUTS[layout].has_test else 0
    recipe = Recipe(
        layout=layout,
        identities=identities,
        train_identities=(identities + 1) // 2 if train_identities is None else train_identities,
        cameras=(LAYOUTS[layout].cameras if layout in LAYOUTS else None) or cameras,
        videos=videos,
        tracklets=tracklets,
        images=images,
        distractors=extra if distractors is None else distractors,
        junk=extra if junk is None else junk,
        size=(int(size[0]), int(size[1])),
        seed=seed,
        camera_seed=seed if camera_seed is None else camera_seed,
    )
    if _holds(root, recipe):
        return root
    partial_root = root.parent / f".{root.name}.partial-{os.getpid()}"
    shutil.rmtree(partial_root, ignore_errors=True)
    try:
        _write(partial_root, recipe, workers)
        if not settle(partial_root, root):
            _holds(root, recipe)
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)
    return root


def _holds(root: Path, recipe: Recipe) -> bool:
    """Whether `root` is this data set; refuse anything else but an empty or missing folder."""
    try:
        found = (root / "synthetic.json").read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(
                f"{root} exists and is not a synthetic data set, so nothing was written. "
                "Name another folder, or remove this one."
            ) from None
        return False
    if found != recipe.json():
        raise DataError(
            f"{root} holds a synthetic data set with other parameters (see {root / 'synthetic.json'}). "
            f"Name another folder, or remove it: rm -r {root}"
        )
    return True


def _write(root: Path, recipe: Recipe, workers: int) -> None:
    layout = LAYOUTS[recipe.layout]
    planned = list(plan_shots(recipe))
    shots = [shot for shot in (layout.arrange or list)(planned) if layout.path(shot) is not None]
    for folder in {_path(root, recipe, shot).parent for shot in shots}:
        folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write_shot, root, recipe)
    with progress(desc="Drawing people", total=len(shots), unit="img") as bar:
        if workers <= 1:
            for shot in shots:
                write(shot)
                bar.update()
        else:
            pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
            try:
                for _ in pool.map(write, shots, chunksize=32):
                    bar.update()
            finally:
                pool.shutdown(cancel_futures=True)
    with open(root / "synthetic.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for s in shots:
            video = s.camid * recipe.videos + s.sequence
            table.writerow((layout.path(s), s.pid, s.camid, video, s.tracklet, s.split, s.role))
    if layout.finish is not None:
        layout.finish(root, shots)
    (root / "synthetic.json").write_text(recipe.json(), "utf-8")


@lru_cache(maxsize=1024)
def _person(seed: int, person: int) -> Person:
    return Person.random(np.random.default_rng([seed, 1, person]))


def _path(root: Path, recipe: Recipe, shot: Shot) -> Path:
    return root / str(LAYOUTS[recipe.layout].path(shot))


def _write_shot(root: Path, recipe: Recipe, shot: Shot) -> None:
    """Write one image; a layout that keeps PNG or BMP files gets the pixels of the JPEG."""
    path, jpeg = _path(root, recipe, shot), _draw(recipe, shot)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        path.write_bytes(jpeg)
    else:
        Image.open(io.BytesIO(jpeg)).save(path)


def _draw(recipe: Recipe, shot: Shot) -> bytes:
    cam = camera(recipe.camera_seed, shot.camid, recipe.size)
    key = [shot.person, shot.camid, shot.tracklet]
    walk = np.random.default_rng([recipe.seed, 2, *key])
    rng = np.random.default_rng([recipe.seed, 3, *key, shot.step])
    daylight = np.random.default_rng([recipe.camera_seed, 12, shot.camid, shot.sequence]).uniform(0.88, 1.12)
    angle = cam.view + walk.choice((0.0, math.pi), p=(0.65, 0.35)) + walk.normal(0, 0.35)
    phase = walk.uniform(0, 2 * math.pi) + shot.step * walk.uniform(0.7, 1.1)
    place = abs((walk.uniform(0, 1) + shot.step * walk.uniform(-0.06, 0.06) + 1) % 2 - 1)
    pose = Pose(
        phase=phase,
        angle=angle + rng.normal(0, 0.08),
        x=rng.normal(0.5, 0.035),
        feet=rng.normal(0.965, 0.015),
        height=rng.normal(0.92, 0.025),
        lean=cam.lean,
    )
    if shot.role == "junk":  # a detector's miss: half a person, or hardly anyone
        pose = Pose(phase, angle, x=rng.uniform(-0.3, 1.3), feet=rng.uniform(0.5, 2.2), height=rng.uniform(0.8, 2.2))
    return shoot(
        cam,
        _person(recipe.seed, shot.person),
        pose,
        rng,
        place=place,
        exposure=daylight * walk.uniform(0.92, 1.08),
        occlusion=0.12,
    )
