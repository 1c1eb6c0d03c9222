"""How the large collections for pre-training keep their images."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reidzoo.data._layouts import LAYOUTS, Layout, Shot


def _place(shot: Shot) -> tuple[int, int, int]:
    """Country, city and video of a shot: three cameras are in one country."""
    return shot.camid // 3 + 1, shot.camid % 3 + 1, shot.sequence + 1


def _cion_al(shot: Shot) -> str:
    return f"sec{shot.person % 130}/{shot.pid:06d}_{shot.tracklet:06d}_{shot.step:02d}.jpg"


def _cion_al_annotations(root: Path, shots: Sequence[Shot]) -> None:
    entries = [{"id": shot.pid, "file_path": _cion_al(shot)} for shot in sorted(shots, key=lambda shot: shot.pid)]
    (root / "cional_annos.json").write_text(json.dumps(entries), "utf-8")


def _luperson(shot: Shot) -> str:
    country, city, video = _place(shot)
    return f"images/{country:02d}_{city:02d}_{video:04d}_{shot.frame:08d}.jpg"


def _cfs_list(root: Path, shots: Sequence[Shot]) -> None:
    """All names in a random order: nothing has scored the images."""
    names = sorted(_luperson(shot).removeprefix("images/") for shot in shots)
    order = np.random.default_rng(0).permutation(len(names))
    (root / "CFS_list.pkl").write_bytes(pickle.dumps([names[i] for i in order]))


def _luperson_nl(shot: Shot) -> str:
    country, city, video = _place(shot)
    # A tracker's number: the same person has another one in another tracklet.
    return f"{country:02d}/{city:02d}/{video:04d}/{shot.tracklet:06d}_{shot.frame:07d}_{shot.step:02d}.jpg"


LAYOUTS["cion_al"] = Layout(_cion_al, has_test=False, max_cameras=99, finish=_cion_al_annotations)
LAYOUTS["luperson"] = Layout(_luperson, has_test=False, max_cameras=99, finish=_cfs_list)
LAYOUTS["luperson_nl"] = Layout(_luperson_nl, has_test=False, max_cameras=99)
