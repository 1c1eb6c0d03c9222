"""What is wrong with a data set beyond what its reader refuses: labels that lie, equal files, damaged images."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reidzoo._logging import progress
from reidzoo.data.datasets import load_dataset
from reidzoo.data.records import DISTRACTOR, JUNK, NO_CAMERA, IntArray, Records, ReIDDataset

SPLITS = ("train", "query", "gallery", "multi_query")
_MOST_COMPARED = 1_000_000  # files; above, equal ones are looked for only when all are opened anyway
_BLOCK = 64  # files that a thread takes at a time

Severity = Literal["error", "warning"]


class SplitCounts(NamedTuple):
    """What a split holds. Junk and distractors are images; identities do not count junk."""

    images: int
    ids: int
    cameras: int
    junk: int
    distractors: int


@dataclass(frozen=True)
class Finding:
    """Something that is wrong (``error``) or may be (``warning``).

    Attributes:
        severity: Errors make training or evaluation fail, or lie.
        check: Which check found it: ``reader``, ``junk``, ``overlap``, ``match``, ``duplicate`` or ``image``.
        text: What was found, in a sentence.
        paths: The images that it is about, where it is about some.
    """

    severity: Severity
    check: str
    text: str
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """What `check_dataset` found.

    Attributes:
        data: What was read.
        findings: Errors first.
        compared: Whether equal files were looked for.
        decoded: Whether every image was decoded.
    """

    data: ReIDDataset
    findings: tuple[Finding, ...]
    compared: bool
    decoded: bool

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return all(finding.severity != "error" for finding in self.findings)

    def counts(self) -> dict[str, SplitCounts]:
        """Counts of each split; `multi_query` only where there is one."""
        counts = {}
        for split in SPLITS:
            r: Records = getattr(self.data, split)
            if len(r) or split != "multi_query":
                strangers = (
                    r.pid == DISTRACTOR if split == "gallery" and DISTRACTOR in _nobody(self.data) else r.pid < JUNK
                )
                junk = r.pid == JUNK
                counts[split] = SplitCounts(len(r), r.num_pids, r.num_cams, int(junk.sum()), int(strangers.sum()))
        return counts

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "name": self.data.name,
            "root": str(self.data.root),
            "ok": self.ok,
            "splits": {split: counts._asdict() for split, counts in self.counts().items()},
            "findings": [asdict(finding) for finding in self.findings],
            "compared": self.compared,
            "decoded": self.decoded,
        }


def check_dataset(spec: str | os.PathLike[str] | ReIDDataset, *, decode: bool = False) -> CheckReport:
    """Read a data set and look for what would make training or evaluation fail, or lie.

    Errors: junk outside the gallery, persons of the training images among the test images, queries of persons who are
    not in the gallery, one picture in training and test, or as a query and as its own match, missing, empty and damaged
    image files. Warnings: everything that the reader says (what it left out, differences from the published figures),
    queries whose only matches are from their own camera, one picture under two persons or twice under one.

    Args:
        spec: As for `load_dataset`.
        decode: Decode every image, too.

    Raises:
        DataError: The data set cannot be read; see `load_dataset`.
    """
    with _said() as said:
        data = load_dataset(spec)
    findings = [Finding("warning", "reader", text) for text in said]
    findings += _check_labels(data)
    total = sum(len(getattr(data, split)) for split in SPLITS[:3])
    compared = decode or total <= _MOST_COMPARED
    if compared:
        findings += _check_files(data)
    if decode:
        findings += _check_images(data, {path for f in findings if f.check == "image" for path in f.paths})
    findings.sort(key=lambda f: f.severity)  # "error" comes before "warning"
    return CheckReport(data, tuple(findings), compared, decode)


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collect the warnings of the data room instead of logging them."""
    texts: list[str] = []
    logger, handler = logging.getLogger("reidzoo.data"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield texts
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)


def _check_labels(data: ReIDDataset) -> Iterator[Finding]:
    for split in ("train", "query", "multi_query"):
        records: Records = getattr(data, split)
        if (junk := records.pid == JUNK).any():
            text = f"{split}: {int(junk.sum()):,} images are junk (pid {JUNK}), which only a gallery may hold"
            yield Finding("error", "junk", text, _paths(records, junk))
    tested = np.setdiff1d(np.concatenate([data.query.pid, data.gallery.pid]), _nobody(data))
    if len(both := np.intersect1d(data.train.pid, tested)):
        text = f"{len(both):,} persons of the training images are also in the test images, such as {both[0]}"
        yield Finding(
            "error", "overlap", f"{text}: results would lie", _paths(data.train, np.isin(data.train.pid, both))
        )
    if len(data.query) or len(data.gallery):
        yield from _check_matches(data.query, data.gallery)


def _nobody(data: ReIDDataset) -> list[int]:
    """The pids that are no person; 0 is one where queries have it."""
    return [JUNK] if (data.query.pid == DISTRACTOR).any() else [JUNK, DISTRACTOR]


def _check_matches(query: Records, gallery: Records) -> Iterator[Finding]:
    """Queries that cannot be answered, and a half of a test set."""
    for has, records, lacks in (("query", query, gallery), ("gallery", gallery, query)):
        if not len(lacks):
            text = f"there are {len(records):,} {has} images, but no {'gallery' if has == 'query' else 'query'} images"
            yield Finding("error", "match", f"{text}: nothing can be evaluated")
            return
    known = np.isin(query.pid, gallery.pid)
    if not known.all():
        lost = np.unique(query.pid[~known])
        text = f"query: {len(lost):,} of {query.num_pids:,} persons are not in the gallery, such as {lost[0]}"
        yield Finding("error", "match", text, _paths(query, ~known))
    # Distinct cameras of each person in the gallery; an unknown camera is no query's own.
    seen = np.unique(np.stack([gallery.pid, gallery.camid], axis=1), axis=0)
    persons, cameras = np.unique(seen[:, 0], return_counts=True)
    own = {(pid, cam) for pid, cam in seen.tolist() if cam != NO_CAMERA}
    single = set(persons[cameras == 1].tolist())
    alone = np.array(
        [p in single and (p, c) in own for p, c in zip(query.pid.tolist(), query.camid.tolist(), strict=True)],
        dtype=bool,
    )
    if alone.any():
        text = f"query: {int(alone.sum()):,} images have matches from their own camera only; scoring leaves them out"
        yield Finding("warning", "match", text, _paths(query, alone))


def _check_files(data: ReIDDataset) -> Iterator[Finding]:
    """Missing and empty files, and equal files where they do harm."""
    splits = (data.train, data.query, data.gallery)
    paths = [path for records in splits for path in records.path]
    side = np.repeat(np.arange(3), [len(records) for records in splits])
    size = np.fromiter(map(_size, paths), dtype=np.int64, count=len(paths))
    for what, bad in (("missing", size < 0), ("empty", size == 0)):
        if bad.any():
            found = [paths[i] for i in np.flatnonzero(bad)]
            yield Finding("error", "image", f"{len(found):,} image files are {what}, such as {found[0]}", tuple(found))

    yield from _sort_equal_files(data, paths, side, _equal_files(paths, size))


def _sort_equal_files(
    data: ReIDDataset, paths: list[str], side: IntArray, groups: Iterable[IntArray]
) -> Iterator[Finding]:
    """Say what is wrong with each set of equal files: where it does most harm."""
    pid = np.concatenate([data.train.pid, data.query.pid, data.gallery.pid])
    camid = np.concatenate([data.train.camid, data.query.camid, data.gallery.camid])
    kinds: dict[str, list[IntArray]] = {}
    for rows in groups:
        queries, found = rows[side[rows] == 1], rows[side[rows] == 2]
        same = pid[queries][:, None] == pid[found]
        counted = same & ((camid[queries][:, None] != camid[found]) | (camid[found] == NO_CAMERA))
        if (side[rows] == 0).any() and (side[rows] > 0).any():
            kind = "are in the training and the test images: results would lie"
        elif counted.any():
            kind = "are a query and count as its match in the gallery: results would lie"
        elif len(np.setdiff1d(pid[rows], _nobody(data))) > 1:
            kind = "are there under more than one person"
        else:
            kind = "are there more than once"
        kinds.setdefault(kind, []).append(rows)
    for kind, sets in kinds.items():
        first = ", ".join(paths[i] for i in sets[0][:3])
        images = tuple(paths[i] for rows in sets for i in rows)
        severity: Severity = "error" if "lie" in kind else "warning"
        yield Finding(severity, "duplicate", f"{len(sets):,} pictures {kind}, such as {first}", images)


def _equal_files(paths: list[str], size: IntArray) -> Iterator[IntArray]:
    """Rows of each set of files with the same bytes."""
    _, inverse, counts = np.unique(size, return_inverse=True, return_counts=True)
    rows = np.flatnonzero((counts[inverse.reshape(-1)] > 1) & (size > 0))
    digests = np.zeros((len(paths), 2), dtype=np.int64)

    def read(block: IntArray) -> int:
        for i in block.tolist():
            digests[i] = np.frombuffer(_digest(paths[i]), dtype=np.int64)
        return len(block)

    blocks = np.array_split(rows, max(1, len(rows) // _BLOCK))
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(desc="Comparing files", total=len(rows)) as bar:
        for n in pool.map(read, blocks):
            bar.update(n)
    order = rows[np.lexsort((digests[rows, 1], digests[rows, 0]))]
    new = np.flatnonzero((digests[order][1:] != digests[order][:-1]).any(axis=1)) + 1
    for group in np.split(order, new):
        if len(group) > 1:
            yield np.sort(group)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=16).digest()
    except OSError:  # a folder, or not readable: equal to no other; decoding names it
        return hashlib.blake2b(os.fsencode(path), digest_size=16, key=b"no file").digest()


def _check_images(data: ReIDDataset, known: set[str]) -> Iterator[Finding]:
    """Images that cannot be decoded, without those that are `known` to be no images."""
    from reidzoo.data.loaders import check_images

    for split in SPLITS:
        records: Records = getattr(data, split)
        bad = check_images(records, desc=f"Decoding {split}") if len(records) else []
        for i, reason in bad:
            path = records.path[i]
            if path not in known:
                yield Finding("error", "image", f"{split}: {path} cannot be decoded: {reason}", (path,))


def _paths(records: Records, rows: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(records.select(rows).path)
