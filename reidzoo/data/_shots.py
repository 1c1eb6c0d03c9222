"""What there is to draw: the parameters of a synthetic data set, and who is seen where and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from reidzoo.data import (
    _layouts_camera,  # noqa: F401
    _layouts_large,  # noqa: F401
    _layouts_splits,  # noqa: F401
)
from reidzoo.data._layouts import LAYOUTS, Shot
from reidzoo.errors import ConfigError, did_you_mean

_FORMAT = 1  # goes up when the same parameters would give other files


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes."""

    layout: str
    identities: int
    train_identities: int  # of them
    cameras: int
    videos: int
    tracklets: int
    images: int
    distractors: int
    junk: int
    size: tuple[int, int]
    seed: int
    camera_seed: int

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(
                f"There is no layout {self.layout!r}.{did_you_mean(self.layout, LAYOUTS)} Known: {', '.join(LAYOUTS)}."
            )
        least = {"identities": 2, "cameras": 2, "videos": 1, "tracklets": 1, "images": 1, "distractors": 0, "junk": 0}
        wrong = [
            f"{name} = {getattr(self, name)} (at least {n})" for name, n in least.items() if getattr(self, name) < n
        ]
        if LAYOUTS[self.layout].has_test and not 0 < self.train_identities < self.identities:
            wrong.append(f"train_identities = {self.train_identities} (1 to {self.identities - 1})")
        most = LAYOUTS[self.layout].max_cameras
        if self.cameras > most:
            wrong.append(f"cameras = {self.cameras} (at most {most} in the names of layout {self.layout!r})")
        if LAYOUTS[self.layout].has_test and self.tracklets * self.images < 2:
            wrong.append("tracklets * images = 1 (at least 2: a query and an image to find)")
        if min(self.seed, self.camera_seed) < 0:
            wrong.append(f"seed = {self.seed}, camera_seed = {self.camera_seed} (at least 0)")
        if min(self.size) < 16:
            wrong.append(f"size = {self.size} (H, W of at least 16)")
        if wrong:
            raise ConfigError(f"write_synthetic got values out of range: {'; '.join(wrong)}.")

    def json(self) -> str:
        """Text of ``synthetic.json``."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"


def plan_shots(recipe: Recipe) -> Iterator[Shot]:
    """Say who is seen where and when, in a fixed order."""
    rng = np.random.default_rng([recipe.seed, 0])
    has_test = LAYOUTS[recipe.layout].has_test
    order = rng.permutation(recipe.identities)
    tests = set(order[recipe.train_identities :].tolist()) if has_test else set()
    tracklet = 0
    clock = np.ones((recipe.cameras, recipe.videos), dtype=np.int64)  # next free frame of each video
    seen: list[Shot] = []  # gallery images, of which junk is cut
    for person in range(recipe.identities):
        least = max(2, recipe.cameras // 2)
        passes = rng.permutation(recipe.cameras)[: rng.integers(least, recipe.cameras + 1)]
        for camid in sorted(passes.tolist()):
            first = int(rng.integers(recipe.videos))
            query = int(rng.integers(recipe.tracklets * recipe.images))
            for t in range(recipe.tracklets):
                sequence = (first + t) % recipe.videos
                start = int(clock[camid, sequence] + rng.integers(5, 60))
                clock[camid, sequence] = start + 8 * recipe.images
                for step in range(recipe.images):
                    split = "train" if person not in tests else "gallery"
                    if split == "gallery" and t * recipe.images + step == query:
                        split = "query"
                    number, frame = t * recipe.images + step, start + 8 * step
                    shot = Shot(person, person + 1, camid, sequence, tracklet, step, frame, split, "person", number)
                    if split == "gallery":
                        seen.append(shot)
                    yield shot
                tracklet += 1
    if not has_test:
        return
    for i in range(recipe.distractors):
        camid, sequence = int(rng.integers(recipe.cameras)), int(rng.integers(recipe.videos))
        clock[camid, sequence] += rng.integers(5, 60)
        frame = int(clock[camid, sequence])
        yield Shot(recipe.identities + i, 0, camid, sequence, tracklet, 0, frame, "gallery", "distractor", i)
        tracklet += 1
    for i in range(recipe.junk):
        source = seen[int(rng.integers(len(seen)))]
        step = recipe.images + i
        yield source._replace(pid=-1, step=step, role="junk", number=recipe.tracklets * step)
