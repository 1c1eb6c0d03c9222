"""Rules of evaluation: which gallery images count for a query, and what a query is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._inputs import NO_CAMERA, Images, Index, Metric, check_choice, check_dimensions, feature_rows
from reidzoo.eval._ranks import Vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """Which gallery images count, and how the CMC curve is drawn. Images of identity -1 never take part.

    Attributes:
        name: How the result is labelled.
        same_camera: Whether gallery images of the query's identity *and* camera are true matches. If not, they are
            removed from the ranking (Market-1501's rule); an unknown camera, -1, is no camera's equal.
        repeats: 0: the whole gallery makes the CMC curve. Otherwise the curve is the average of so many draws of one
            gallery image per identity (CUHK03's first protocol). mAP and mINP are of the whole gallery in any case.
        seed: Of the draws.
    """

    name: str = "market"
    same_camera: bool = False
    repeats: int = 0
    seed: int = 0

    def counts(self, query_cams: Index, gallery_cams: Index) -> NDArray[np.bool_]:
        """Tell which gallery images of the queries' own identity are true matches; the others are removed.

        Args:
            query_cams: (q,) cameras of the queries of one identity.
            gallery_cams: (g,) cameras of its gallery images.

        Returns:
            (q, g) booleans.
        """
        if self.same_camera:
            return np.ones((len(query_cams), len(gallery_cams)), np.bool_)
        different: NDArray[np.bool_] = (query_cams[:, None] != gallery_cams) | (gallery_cams == NO_CAMERA)
        return different

    def queries(self, rows: NDArray[Any], images: Images, metric: Metric) -> Vectors:
        """Return what is searched for, still without its scale: here, each query image by itself.

        Args:
            rows: (Q, D) features of the query images.
            images: Their identities and cameras.
            metric: ``"cosine"`` or ``"euclidean"``.
        """
        return Vectors(rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiQuery(Protocol):
    """Search with several images of the query's identity and camera, such as Market-1501's ``gt_bbox``.

    Attributes:
        name: How the result is labelled.
        same_camera: As in `Protocol`.
        repeats: As in `Protocol`.
        seed: As in `Protocol`.
        features: (M, D) features of the further images, as ``ReIDDataset.multi_query`` has them. A query for which
            there are none is searched for with its own image; otherwise its own is used only if it is among them.
        ids: (M,) their identities.
        cams: (M,) their cameras.
        pool: ``"average"``: their mean feature, each normalised first if the metric is cosine (Market-1501, layumi);
            ``"max"``: the similarity of the most similar one.
    """

    name: str = "multi_query"
    features: ArrayLike | torch.Tensor
    ids: ArrayLike
    cams: ArrayLike
    pool: Literal["average", "max"] = "average"

    def __post_init__(self) -> None:
        check_choice("pool", self.pool, ("average", "max"))

    def queries(self, rows: NDArray[Any], images: Images, metric: Metric) -> Vectors:
        """Return one query for each query image, made of all the images that belong to it."""
        more = feature_rows("multi_query", self.features)
        check_dimensions(rows, more)
        further = _groups(Images.checked("multi_query", len(more), self.ids, self.cams))
        keys = zip(images.ids.tolist(), images.cams.tolist(), strict=True)
        members = [[len(rows) + i for i in further.get(key, ())] or [q] for q, key in enumerate(keys)]
        if max(map(max, members)) < len(rows):
            raise DataError("None of the further images shows a query's identity by the query's camera.")
        both = np.concatenate([rows, more], dtype=np.result_type(rows.dtype, more.dtype, np.float16))
        edges = np.cumsum([0, *map(len, members)])
        sets = Vectors(both, np.concatenate(members), edges=edges)
        return sets if self.pool == "max" else Vectors(_means(sets, metric))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(),
        Protocol(name="no_camera", same_camera=True),
        Protocol(name="cuhk03_classic", repeats=10),
    )
}


def as_protocol(protocol: str | Protocol) -> Protocol:
    """Return the protocol of that name, or the protocol itself.

    Raises:
        ConfigError: There is none of that name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if not isinstance(protocol, str):
        raise ConfigError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}, or a Protocol.")
    check_choice("protocol", protocol, tuple(PROTOCOLS))
    return PROTOCOLS[protocol]


def _groups(images: Images) -> dict[tuple[int, int], list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for at, key in enumerate(zip(images.ids.tolist(), images.cams.tolist(), strict=True)):
        groups.setdefault(key, []).append(at)
    return groups


def _means(sets: Vectors, metric: Metric, block: int = 256) -> NDArray[np.float64]:
    """Return the mean of each query's images; the mean of unit vectors is shorter, which cosine does not mind."""
    prepared = replace(sets, scale=None if metric == "cosine" else 1.0)
    means = np.empty((len(sets), sets.rows.shape[1]))
    for start in range(0, len(sets), block):
        rows, _, starts = prepared.take(slice(start, start + block), np.float64)
        assert starts is not None
        means[start : start + block] = np.add.reduceat(rows, starts)
        means[start : start + block] /= np.diff(np.append(starts, len(rows)))[:, None]
    return means
