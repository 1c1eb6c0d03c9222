"""Layouts of the small data sets with ten splits, and of CUHK02 and CUHK-SYSU."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reidzoo.data._layouts import LAYOUTS, Layout, Shot
from reidzoo.data.datasets._splits import VARIANTS, own_order
from reidzoo.data.datasets.cuhk02 import PAIR
from reidzoo.errors import ConfigError

_VIEWS = ("query", "gallery")
_ELSEWHERE = "/another/machine"  # published split files hold the paths of the machine that wrote them


def _by_person(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    people = defaultdict(list)
    for shot in shots:
        if shot.role == "person":
            people[shot.person].append(shot)
    yield from people.values()


def _two_views(most: int, strangers: bool, shots: Sequence[Shot]) -> list[Shot]:
    """One image of each person by each of the first two cameras that see it: a query and its match in the gallery."""
    kept: list[Shot] = []
    for own in _by_person(shots):
        first = next(shot for shot in own if shot.camid != own[0].camid)
        for view, shot in enumerate((own[0], first)):
            kept.append(shot._replace(number=view, split="train" if shot.split == "train" else _VIEWS[view]))
    if (highest := max(shot.pid for shot in kept)) > most:
        raise ConfigError(f"identities = {highest}: this layout has places for {most}.")
    return kept + [shot for shot in shots if strangers and shot.role == "distractor"]


def _viper(shot: Shot) -> str:
    return f"cam_{'ab'[shot.camid]}/{shot.pid:03d}_{45 * ((shot.tracklet + shot.camid) % 5)}.bmp"


_PRID_SHARED = 200  # persons above are distractors


def _prid_views(shots: Sequence[Shot]) -> list[Shot]:
    # Distractors are in camera b, whichever was planned.
    return [
        shot._replace(camid=1) if shot.role == "distractor" else shot for shot in _two_views(_PRID_SHARED, True, shots)
    ]


def _prid(shot: Shot) -> str:
    number = shot.pid or _PRID_SHARED + 1 + shot.number
    return f"single_shot/cam_{'ab'[shot.camid]}/person_{number:04d}.png"


def _grid(shot: Shot) -> str:
    folder = "gallery" if shot.role == "distractor" or shot.number else "probe"
    box = f"{shot.tracklet}_{shot.camid + 10}_64_128"
    return f"{folder}/{shot.pid:04d}_{shot.camid + 1}_{shot.frame:05d}_{box}.jpeg"


def _ilids(shot: Shot) -> str:
    return f"images/{shot.pid:04d}{shot.number + 1:03d}.jpg"


def _ilids_images(shots: Sequence[Shot]) -> list[Shot]:
    """Up to eight images of each training person; of test persons the query and the image to find."""
    kept: list[Shot] = []
    for own in _by_person(shots):
        count = 2 if own[0].split != "train" else 2 + own[0].person % 7
        for number, shot in enumerate(own[:: max(1, len(own) // count)][:count]):
            part = "train" if shot.split == "train" else _VIEWS[number]
            kept.append(shot._replace(number=number, split=part))
    return kept


def _cuhk02_views(shots: Sequence[Shot]) -> list[Shot]:
    """Two images of each person by each camera of a pair; the pairs number their people each from 1."""
    kept: list[Shot] = []
    for own in _by_person(shots):
        pair, number = 1 + own[0].person % 5, 1 + own[0].person // 5
        for view, camid in enumerate(sorted({shot.camid for shot in own})[:2]):
            images = [shot for shot in own if shot.camid == camid][:2]
            kept += [shot._replace(pid=pair * PAIR + number, camid=2 * (pair - 1) + view) for shot in images]
    return kept


def _cuhk02(shot: Shot) -> str:
    pair, number = divmod(shot.pid, PAIR)
    return f"P{pair}/cam{shot.camid % 2 + 1}/{number:03d}_{shot.number + 1:03d}.png"


def _sysu_appearances(shots: Sequence[Shot]) -> list[Shot]:
    """Numbers each person's images; scenes are numbered from 1."""
    return [
        shot._replace(number=number, camid=shot.camid + 1)
        for own in _by_person(shots)
        for number, shot in enumerate(own[:99])
    ]


def _sysu(shot: Shot) -> str:
    name = f"p{shot.pid:05d}_n{shot.number + 1:02d}_s{shot.camid:05d}_hard{shot.step % 2}"
    return f"cropped_image/{name}.png"


def _train_people(name: str, shots: Sequence[Shot]) -> Iterator[set[int]]:
    """Who is trained on in each of the ten splits: in the first those who were planned, then as many others."""
    people = {shot.pid for shot in shots if shot.role == "person"}
    planned = {shot.pid for shot in shots if shot.split == "train"}
    yield planned
    for variant in VARIANTS[1:]:
        yield set(own_order(name, variant, sorted(people))[: len(planned)])


Describe = Callable[[Sequence[Shot], set[int]], dict[str, Any]]


def _write_splits(name: str, file: str, describe: Describe, root: Path, shots: Sequence[Shot]) -> None:
    splits = [describe(shots, train) for train in _train_people(name, shots)]
    (root / file).write_text(json.dumps(splits, indent=1) + "\n", encoding="utf-8")


def _describe_pairs(name: str, shots: Sequence[Shot], train: set[int]) -> dict[str, Any]:
    """Lists of [path, label or person, camera], as published for GRID and VIPeR."""
    label = {pid: i for i, pid in enumerate(sorted(train))}
    entries: dict[str, list[list[Any]]] = {"train": [], "query": [], "gallery": []}
    seen: set[int] = set()
    for shot in shots:
        path = f"{_ELSEWHERE}/{name}/{LAYOUTS[name].path(shot)}"
        if shot.pid in train:
            entries["train"].append([path, label[shot.pid], shot.camid])
        else:
            is_query = shot.role == "person" and shot.pid not in seen  # the first view comes first
            entries["query" if is_query else "gallery"].append([path, shot.pid, shot.camid])
            seen.add(shot.pid)
    counts = {"num_train_pids": len(train), "num_query_pids": len(entries["query"])}
    return {**entries, **counts, "num_gallery_pids": len(entries["gallery"])}


def _describe_people(shots: Sequence[Shot], train: set[int]) -> dict[str, Any]:
    people = {shot.pid for shot in shots if shot.role == "person"}
    return {"train": sorted(train), "test": sorted(people - train)}


def _describe_names(shots: Sequence[Shot], train: set[int]) -> dict[str, Any]:
    entries: dict[str, list[str]] = {"train": [], "query": [], "gallery": []}
    for own in _by_person(shots):
        names = [Path(_ilids(shot)).name for shot in own]
        if own[0].pid in train:
            entries["train"] += names
        else:
            entries["query"].append(names[0])
            entries["gallery"].append(names[1])
    return entries


LAYOUTS["viper"] = Layout(
    _viper,
    has_test=True,
    max_cameras=2,
    cameras=2,
    arrange=partial(_two_views, 999, False),
    finish=partial(_write_splits, "viper", "splits.json", partial(_describe_pairs, "viper")),
)
LAYOUTS["prid"] = Layout(
    _prid,
    has_test=True,
    max_cameras=2,
    cameras=2,
    arrange=_prid_views,
    finish=partial(_write_splits, "prid", "splits_single_shot.json", _describe_people),
)
LAYOUTS["grid"] = Layout(
    _grid,
    has_test=True,
    max_cameras=8,
    arrange=partial(_two_views, 9999, True),
    finish=partial(_write_splits, "grid", "splits.json", partial(_describe_pairs, "grid")),
)
LAYOUTS["ilids"] = Layout(
    _ilids,
    has_test=True,
    max_cameras=99,
    arrange=_ilids_images,
    finish=partial(_write_splits, "ilids", "splits.json", _describe_names),
)
LAYOUTS["cuhk02"] = Layout(_cuhk02, has_test=False, max_cameras=99, arrange=_cuhk02_views)
LAYOUTS["cuhk_sysu"] = Layout(_sysu, has_test=False, max_cameras=99, arrange=_sysu_appearances)
