"""LUPerson: pedestrians in web videos, without identities (Fu et al., CVPR 2021), and selections from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reidzoo.data._index import IndexWriter, indexed
from reidzoo.data.datasets._reader import Counts, Reader
from reidzoo.data.datasets._scan import describe, find_root, list_folder
from reidzoo.data.datasets._videos import read_videos
from reidzoo.data.ranked_list import first_part, read_name_list
from reidzoo.data.records import NO_CAMERA, Records, ReIDDataset
from reidzoo.errors import ConfigError, DataNotFoundError

ALIASES = ("LUPerson", "luperson", "LUP", "lup")
LISTS = ("CFS_list.pkl", "cfs_list.pkl", "CFS_list.json", "cfs_list.json", "CFS_list.txt", "cfs_list.txt")
KEEP = {"cfs": 0.6, "cfs50": 0.5}  # the parts that TransReID-SSL used; 0.6 for the released weights
LAYOUT = """\
  <root>/images/34_01_0341_00001865.jpg          (<country>_<city>_<video>_<index>)
or, as extracted from the videos,
  <root>/<country>/<city>/<video>/00001865_0002.jpg
for luperson@cfs and luperson@cfs50 also
  <root>/CFS_list.pkl                            (or .json, .txt: names in images/, best first)
Give the folder as luperson:<root>, or set REIDZOO_DATA to the folder above it."""

_FLAT = re.compile(r"(\d{1,18})_(\d{1,18})_(\d{1,18})_(\d{1,18})\.(?:jpg|jpeg|png)", re.IGNORECASE | re.ASCII)
_RAW = re.compile(r"(?P<frame>\d{1,18})_\d+\.(?:jpg|jpeg|png)", re.IGNORECASE | re.ASCII)
_FLAT_EXPECTED = "images are named <country>_<city>_<video>_<index>.jpg, like 34_01_0341_00001865.jpg"
_RAW_EXPECTED = "images are <country>/<city>/<video>/<frame>_<object>.jpg, like 00001865_0002.jpg"
_BLOCK = 1 << 16


def read_luperson(root: Path, variant: str = "full", *, keep_num: int | None = None) -> ReIDDataset:
    """Read LUPerson; all images are for training.

    It has no identities: `pid` is 0 throughout, and cameras are not known. Extras are `video`, which counts the videos
    in the sorted order of (country, city, video), and `frame`: the index in the file name. The first time, the folders
    are listed into an index (`reidzoo.data._index`).

    Args:
        root: The folder with ``images/`` or the countries, its parent, or ``images/`` itself.
        variant: ``"full"``; or the images that TransReID-SSL's catastrophic forgetting score puts first, in that order:
            ``"cfs"`` the best 60 % of the list, ``"cfs50"`` the best half.
        keep_num: How many images of the list to keep, instead of that part.

    Raises:
        DataNotFoundError: There are no images, or no list.
        DataError: The list is not a list of file names.
        ConfigError: `keep_num` is no positive number, or given without a list.
    """
    if keep_num is not None and (keep_num < 1 or variant not in KEEP):
        raise ConfigError(f"keep_num is {keep_num} for luperson@{variant}; expected at least 1, with variant 'cfs'.")
    places = [root, *(root / alias for alias in ALIASES), *([root.parent] if root.name == "images" else [])]
    flat = next((place for place in places if (place / "images").is_dir()), None)
    if flat is None and variant not in KEEP:
        root, train = read_videos("luperson-raw-1", root, ALIASES, _RAW, _RAW_EXPECTED, LAYOUT)
    else:
        root = flat or find_root(root, "images", ALIASES, LAYOUT)
        train = _read_flat(root) if variant not in KEEP else _read_selection(root, keep_num or KEEP[variant])
    return ReIDDataset("luperson", root, train, Records.empty(), Records.empty())


def _read_flat(root: Path) -> Records:
    def build(writer: IndexWriter) -> None:
        names = _list_images(writer, root)
        _add(writer, names, _number_videos(names))

    return indexed("luperson-1", root, build, folders=[root / "images"])


def _read_selection(root: Path, keep: float) -> Records:
    """The first `keep` images (a number, or below 1 a share) of the list beside them."""
    file = next((root / name for name in LISTS if (root / name).is_file()), None)
    if file is None:
        raise DataNotFoundError(
            f"{root} has no list of images sorted by their score: none of {', '.join(LISTS)}. {describe(root)} "
            f"Copy the list there, or read all images: luperson:{root}"
        )

    def build(writer: IndexWriter) -> None:
        listed = read_name_list(file)
        chosen = first_part(listed, keep) if keep < 1 else listed[: int(keep)]
        if len(chosen) < keep:
            writer.note(f"{file}: it lists {len(listed):,} images, fewer than the {keep:,} to keep.")
        present = _list_images(writer, root)
        videos = _number_videos(present)
        names = [name for name in chosen if name in videos]
        if not names:
            raise DataNotFoundError(f"None of the {len(chosen):,} images in {file} are in {root / 'images'}.")
        if len(names) < len(chosen):
            example = next(name for name in chosen if name not in videos)
            writer.skip(file, len(chosen) - len(names), example, f"there is no such image in {root / 'images'}")
        _add(writer, names, videos)

    return indexed(f"luperson-1-first-{keep}", root, build, annotation=file, folders=[root / "images"])


def _list_images(writer: IndexWriter, root: Path) -> list[str]:
    files, folders = list_folder(root / "images")
    names = [file for file in files if _FLAT.fullmatch(file)]
    if len(names) < len(files) + len(folders):
        example = folders[0] if folders else next(file for file in files if not _FLAT.fullmatch(file))
        writer.skip(root / "images", len(files) + len(folders) - len(names), example, _FLAT_EXPECTED)
    if not names:
        raise DataNotFoundError(f"{root / 'images'} has no image that can be used. Expected:\n{LAYOUT}")
    return names


def _key(name: str) -> tuple[int, ...]:
    """Country, city and video of a file name."""
    return tuple(int(number) for number in name.split("_")[:3])


def _number_videos(names: Sequence[str]) -> dict[str, int]:
    """The number of the video of every name: the place of (country, city, video) among those that there are."""
    keys = {name: name.rpartition("_")[0] for name in names}
    number = {key: i for i, key in enumerate(sorted(set(keys.values()), key=_key))}
    return {name: number[key] for name, key in keys.items()}


def _add(writer: IndexWriter, names: Sequence[str], videos: dict[str, int]) -> None:
    for start in range(0, len(names), _BLOCK):
        block = names[start : start + _BLOCK]
        frames = [int(name.rpartition("_")[2].partition(".")[0]) for name in block]
        writer.add(
            [f"images/{name}" for name in block], pid=0, camid=NO_CAMERA,
            video=[videos[name] for name in block], frame=frames,
        )  # fmt: skip


READER = Reader(
    read_luperson,
    about="LUPerson: pedestrians in web videos, without identities (Fu et al., CVPR 2021).",
    layout=LAYOUT,
    variants=("full", *KEEP),
    published={
        "full": {"train": Counts(4_180_243)},
        "cfs": {"train": Counts(2_508_146)},
        "cfs50": {"train": Counts(2_090_122)},
    },
)
