"""Images in folders ``country/city/video``, as LUPerson and LUPerson-NL keep them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reidzoo.data._index import IndexWriter, indexed
from reidzoo.data.datasets._scan import describe, is_image, list_folder
from reidzoo.data.records import NO_CAMERA, Records
from reidzoo.errors import DataNotFoundError

_LEVELS = ("country", "city", "video")


def read_videos(
    reader: str, path: Path, aliases: Sequence[str], name: re.Pattern[str], expected: str, layout: str
) -> tuple[Path, Records]:
    """Read a tree of video folders through an index.

    Args:
        reader: Name and version of the reader, for the index.
        path: The folder with the countries, or its parent.
        aliases: Names under which the data set is usually stored below `path`.
        name: Matches a file name; its groups become columns (pid is 0 and camid -1 where there is no such group).
            Beside them there is `video`, which counts the video folders in their sorted order.
        expected: Says what file names look like.
        layout: The tree, for errors.

    Returns:
        The root, and its records in the order of countries, cities, videos and file names.

    Raises:
        DataNotFoundError: `path` has no images in folders of this depth.
    """
    root = _find(path, aliases, layout)
    folders, videos, strays = _walk(root)

    def build(writer: IndexWriter) -> None:
        skipped, example = len(strays), strays[0] if strays else ""
        for number, video in enumerate(videos):
            files, deeper = list_folder(root / video)
            found = [(file, match) for file in files if (match := name.fullmatch(file))]
            columns: dict[str, list[int]] = {
                group: [int(match[group]) for _, match in found] for group in name.groupindex
            }
            constants: Mapping[str, int] = {"camid": NO_CAMERA} if "pid" in columns else {"pid": 0, "camid": NO_CAMERA}
            if found:
                video_of = [number] * len(found)
                writer.add([f"{video}/{file}" for file, _ in found], video=video_of, **columns, **constants)
            if len(found) < len(files) + len(deeper):
                left = [*(f"{folder}/" for folder in deeper), *(file for file in files if not name.fullmatch(file))]
                skipped, example = skipped + len(left), example or f"{video}/{left[0]}"
        writer.skip(root, skipped, example, expected)
        if not writer.rows:
            raise DataNotFoundError(f"{root} has no image that can be used: {expected}. Expected:\n{layout}")

    return root, indexed(reader, root, build, folders=folders)


def _walk(root: Path) -> tuple[list[Path], list[str], list[str]]:
    """All folders down to the videos, the videos' paths below `root`, and files above them; all sorted."""
    folders, level, strays = [root], [""], list[str]()
    for _ in _LEVELS:
        deeper = []
        for parent in level:
            files, names = list_folder(root / parent)
            strays += [f"{parent}{file}" for file in files if is_image(file)]
            deeper += [f"{parent}{name}/" for name in names]
        level = deeper
        folders += [root / folder for folder in level]
    return folders, [video.rstrip("/") for video in level], strays


def _find(path: Path, aliases: Sequence[str], layout: str) -> Path:
    """The folder with images three levels below it: `path`, or one of its children."""
    children = [path / name for name in list_folder(path)[1]] if path.is_dir() else []
    for candidate in (path, *(child for child in children if child.name in aliases or len(children) == 1)):
        if _has_images(candidate, len(_LEVELS)):
            return candidate
    found = describe(path)
    depth = next((depth for depth in range(6) if _has_images(path, depth)), None)
    if depth is not None:
        found = f"Images are {depth} folders below it, expected {len(_LEVELS)}. {found}"
        if depth < len(_LEVELS):
            above = len(_LEVELS) - depth - 1
            found += f" If it is one of the {_LEVELS[above]} folders, give {path.parents[above]} instead."
    raise DataNotFoundError(f"{path} has no images in folders {'/'.join(_LEVELS)}. {found} Expected:\n{layout}")


def _has_images(folder: Path, depth: int) -> bool:
    """Whether there is an image exactly `depth` folders below `folder`."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        if depth == 0:
            return any(is_image(entry.name) for entry in entries)
        children = sorted(entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    return any(_has_images(Path(child), depth - 1) for child in children)
