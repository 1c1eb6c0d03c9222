"""Several training sets as one, and whole data sets as training sets (domain generalisation uses both)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from reidzoo.data.records import DISTRACTOR, JUNK, NO_CAMERA, IntArray, Records, ReIDDataset
from reidzoo.errors import DataError

DOMAIN = "domain"
"""Name of the extra column that says from which of the combined data sets an image is, from 0."""


def combine(datasets: Sequence[ReIDDataset]) -> ReIDDataset:
    """Join the training images of several data sets; there is no query and no gallery.

    Identities are numbered from 1, data set by data set in the order of their pids, and known cameras from 0 likewise,
    so none is shared. ``extras["domain"]`` is the place of the image's data set in `datasets`. Other extras are left
    out: they number things within one data set.

    Args:
        datasets: two or more; the name of the result joins theirs with ``+``.

    Raises:
        DataError: One of them has no training images.
    """
    parts: list[Records] = []
    first_pid, first_camera = 1, 0
    for domain, data in enumerate(datasets):
        train = data.train
        if not len(train):
            raise DataError(
                f"{data.name} at {data.root} has no training images to combine with others. Leave it out, or use all "
                f"its images: {data.name}@all."
            )
        cameras = np.unique(train.camid[train.camid != NO_CAMERA])
        camid = np.where(train.camid == NO_CAMERA, NO_CAMERA, first_camera + np.searchsorted(cameras, train.camid))
        labels = train.relabel().pid
        domains = np.full(len(train), domain, dtype=np.int64)
        parts.append(Records(train.path, first_pid + labels, camid, {DOMAIN: domains}))
        first_pid, first_camera = first_pid + train.num_pids, first_camera + len(cameras)
    name = "+".join(data.name for data in datasets)
    root = Path(os.path.commonpath([data.root.absolute() for data in datasets]))
    return ReIDDataset(name, root, concatenate(parts), Records.empty(), Records.empty())


def as_training(data: ReIDDataset) -> Records:
    """All images of people in train, query and gallery, for training; without junk and distractors.

    Pids and cameras stay as they are. `multi_query` is left out: it shows scenes of the other splits again.
    """
    no_person = [JUNK] if (data.query.pid == DISTRACTOR).any() else [JUNK, DISTRACTOR]
    gallery = data.gallery.select(~np.isin(data.gallery.pid, no_person))
    return concatenate([data.train, data.query, gallery])


def whole(data: ReIDDataset) -> ReIDDataset:
    """The data set with all its images of people for training, and nothing to test with: `as_training`."""
    empty = Records.empty()
    return replace(data, train=as_training(data), query=empty, gallery=empty, multi_query=empty)


def concatenate(parts: Sequence[Records]) -> Records:
    """Rows of all `parts`, in order; extras that all parts with rows have are kept."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return Records.empty()
    if len(parts) == 1:
        return parts[0]
    shared = [name for name in parts[0].extras if all(name in part.extras for part in parts)]
    return Records.from_columns(
        chain.from_iterable(part.path for part in parts),
        _joined([part.pid for part in parts]),
        _joined([part.camid for part in parts]),
        **{name: _joined([part.extras[name] for part in parts]) for name in shared},
    )


def _joined(columns: Sequence[IntArray]) -> IntArray:
    return np.concatenate(columns)
