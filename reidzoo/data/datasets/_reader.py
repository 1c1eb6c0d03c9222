"""What a reader is, and the comparison of what it read with the published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from reidzoo.data.records import ReIDDataset


class Counts(NamedTuple):
    """Published figures of a split; None where none were published."""

    images: int
    ids: int | None = None
    cameras: int | None = None


@dataclass(frozen=True)
class Reader:
    """How to read the data sets of one layout.

    Attributes:
        read: (root) -> data set, or (root, variant) where there are variants.
        about: What it is, in one line.
        layout: What it looks like on disk.
        variants: What may follow ``@`` in a name, the default first; empty: nothing may.
        needs_path: Whether a path has to be given, because there is no usual place.
        hub: Whether a relative path is the name of a repository on a hub.
        published: By variant ("" where there are none) and split, the published figures.
    """

    read: Callable[..., ReIDDataset]
    about: str
    layout: str
    variants: tuple[str, ...] = ()
    needs_path: bool = False
    hub: bool = False
    published: Mapping[str, Mapping[str, Counts]] = field(default_factory=dict)


def differences(data: ReIDDataset, published: Mapping[str, Counts]) -> list[str]:
    """Say where a data set differs from the published figures: a partial or altered copy.

    Args:
        data: What was read.
        published: Figures by split. The junk images (pid -1) of a gallery count as images and not as identities.
    """
    found = []
    for split, counts in published.items():
        records = getattr(data, split)
        have = (len(records), records.num_pids, records.num_cams)
        for what, expected, has in zip(("images", "identities", "cameras"), counts, have, strict=True):
            if expected is not None and has != expected:
                side = f"{expected - has:,} are missing" if has < expected else f"{has - expected:,} too many"
                found.append(f"{split} has {has:,} {what}, published are {expected:,}: {side}")
    return found
