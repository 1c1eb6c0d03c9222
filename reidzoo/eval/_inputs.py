"""What every function on feature arrays checks first, and how it says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import ConfigError, DataError, did_you_mean

Metric = Literal["cosine", "euclidean"]
Convention = Literal["rectangle", "trapezoid"]
Index = NDArray[np.int64]

METRICS = ("cosine", "euclidean")
JUNK, NO_CAMERA = -1, -1
_PIECE_BYTES = 8 << 20  # of float64 rows looked at together


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `known`."""
    if value not in known:
        raise ConfigError(
            f"{name}={value!r} is not one of {', '.join(map(repr, known))}.{did_you_mean(str(value), known)}"
        )


def as_array(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Return `values` as an array, without a copy where that is possible; bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return values.numpy()
    return np.asarray(values)


@dataclass(frozen=True, eq=False)
class Images:
    """One side of a retrieval, checked: who is on each image, and by which camera.

    Attributes:
        ids: (N,) int64.
        cams: (N,) int64; -1 where unknown.
    """

    ids: Index
    cams: Index

    @classmethod
    def checked(cls, side: str, count: int, ids: ArrayLike, cams: ArrayLike | None) -> Images:
        """Return ids and cameras as int64, or raise `DataError` if they do not describe `count` images."""
        columns = []
        for name, values in (("ids", ids), ("cams", np.full(count, NO_CAMERA) if cams is None else cams)):
            column = as_array(values)
            if column.shape != (count,):
                raise DataError(
                    f"There are {count} {side} features, but {side}_{name} has shape {column.shape}; "
                    f"expected ({count},)."
                )
            if column.dtype.kind not in "iu":
                raise DataError(
                    f"{side}_{name} is of type {column.dtype}; expected integers. Number names first, for example "
                    "with numpy.unique(names, return_inverse=True)."
                )
            columns.append(column.astype(np.int64))
        return cls(*columns)

    def select(self, at: Index) -> Images:
        """Return the images at `at`."""
        return Images(self.ids[at], self.cams[at])


def feature_rows(side: str, features: ArrayLike | torch.Tensor) -> NDArray[Any]:
    """Return (N, D) finite real numbers, not copied and of the type they had, or raise `DataError`."""
    rows = as_array(features)
    if rows.ndim != 2:
        raise DataError(f"The {side} features have shape {rows.shape}; expected (images, dimensions).")
    if rows.dtype.kind not in "fiu":
        raise DataError(f"The {side} features are of type {rows.dtype}; expected real numbers, such as float32.")
    if rows.size == 0:
        raise DataError(
            f"The {side} is empty: its features have shape {rows.shape}. Check the {side} split of the data set."
        )
    _check_finite(side, rows)
    return rows


def check_dimensions(query: NDArray[Any], gallery: NDArray[Any]) -> None:
    """Raise `DataError` unless both sides have features of the same length."""
    if query.shape[1] != gallery.shape[1]:
        raise DataError(
            f"Query features have {query.shape[1]} dimensions, gallery features {gallery.shape[1]}. "
            "Both must come from the same model."
        )


def pieces(rows: NDArray[Any]) -> range:
    """Return where pieces of `rows` start that have room in memory as float64; its step is their length."""
    return range(0, len(rows), max(1, _PIECE_BYTES // (8 * rows.shape[1])))


def _check_finite(side: str, rows: NDArray[Any]) -> None:
    starts, bad, first = pieces(rows), 0, list[int]()
    for start in starts:
        piece = rows[start : start + starts.step]
        if np.isfinite(piece.sum(dtype=np.float64)):  # NaN and infinity do not leave a sum
            continue
        wrong = np.flatnonzero(~np.isfinite(piece).all(axis=1)) + start
        bad += len(wrong)
        first += wrong[: 5 - len(first)].tolist()
    if bad:
        raise DataError(
            f"{bad} of {len(rows)} {side} features contain NaN or infinity (first rows: "
            f"{', '.join(map(str, first))}). Was the training run stable? Extract the features in float32."
        )


def largest_norm(rows: NDArray[Any]) -> float:
    """Return the length of the longest row."""
    starts = pieces(rows)
    squares = (rows[start : start + starts.step].astype(np.float64) for start in starts)
    return max(float(np.sqrt(np.einsum("nd,nd->n", x, x).max())) for x in squares)


def same_rows(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same features; stops at the first piece that differs."""
    starts = pieces(a)
    return a.shape == b.shape and all(
        np.array_equal(a[start : start + starts.step], b[start : start + starts.step]) for start in starts
    )


def no_match_message(query: Images, gallery: Images) -> str:
    """Explain why no query has a true match."""
    shared = np.intersect1d(query.ids, gallery.ids[gallery.ids != JUNK])
    if len(shared) == 0:
        return (
            f"No query identity appears in the gallery: queries have {_some(query.ids)}, the gallery has "
            f"{_some(gallery.ids)}. Use one numbering of identities for both splits (with a data set of your own: the "
            "same folder or pid for the same person in query and gallery)."
        )
    return (
        f"No query has a true match: {len(shared)} identities are in both query and gallery, but only under the same "
        f"camera (query cameras {_some(query.cams)}, gallery cameras {_some(gallery.cams)}), and the Market-1501 rule "
        "removes gallery images of the query's identity and camera. If the cameras are not known, leave them out "
        "(query_cams=None, gallery_cams=None, or camera -1 in the data set), or count such images with "
        'protocol="no_camera"; then no image is removed.'
    )


def _some(values: Index) -> str:
    unique = np.unique(values)
    return f"{', '.join(map(str, unique[:5]))}{', ...' if len(unique) > 5 else ''} ({len(unique)} in all)"
