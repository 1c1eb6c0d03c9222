"""Which groups of images are close to each other, and what that joins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Links = tuple[Ints, Ints, NDArray[np.float32]]

_ROWS = 512  # groups compared at a time,
_COLUMNS = 1 << 15  # with so many others
NEAREST = 64  # links of a group that the guarded closure looks at; the closure joins the others through them


def find_links(
    sums: Tensor, stop: Ints, sigma: float, device: torch.device, *, nearest: int | None = None
) -> Iterator[Links]:
    """Find the pairs of groups whose centroids are closer than `sigma`; exact.

    Only pairs a < b < stop[a] are looked at. As the relation is symmetric, looking ahead covers a window on both sides.

    Args:
        sums: (K, D) sums of unit features.
        stop: (K,) where the groups end that a group is compared with; not decreasing.
        sigma: Cosine distance.
        device: Where to multiply.
        nearest: Of each group, only so many links per block of columns: the shortest.

    Yields:
        a (n,), b (n,) and the distance (n,) float32 of some links.
    """
    count = len(sums)
    for row in range(0, count, _ROWS):
        rows = F.normalize(sums[row : row + _ROWS].to(device), dim=1)
        end = torch.from_numpy(stop[row : row + _ROWS]).to(device)[:, None]
        last = int(stop[min(row + _ROWS, count) - 1])
        for column in range(row, last, _COLUMNS):
            columns = F.normalize(sums[column : min(column + _COLUMNS, last)].to(device), dim=1)
            distance = 1 - rows @ columns.T
            a, b = (distance < sigma).nonzero(as_tuple=True)
            wanted = (b + column > a + row) & (b + column < end[a, 0])
            a, b = a[wanted], b[wanted]
            values = distance[a, b].cpu().numpy()
            links = ((a + row).cpu().numpy(), (b + column).cpu().numpy(), values)
            yield links if nearest is None else _shortest(links, nearest)


def find_links_with_faiss(sums: Tensor, sigma: float, *, lists: int | None = None, probes: int = 32) -> Iterator[Links]:
    """Find close pairs among all groups with an inverted file of faiss: what it finds is right, it may miss some.

    For so many groups that comparing all pairs takes too long.

    Args:
        sums: (K, D) sums of unit features.
        sigma: Cosine distance.
        lists: Cells of the inverted file; by default 4 sqrt(K).
        probes: Cells that are searched for each group.

    Yields:
        As `find_links`.
    """
    import faiss

    count = len(sums)
    lists = lists or int(4 * count**0.5)
    index: Any = faiss.index_factory(sums.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    sample = np.sort(rng.permutation(count)[: 64 * lists])
    index.train(F.normalize(sums[torch.from_numpy(sample)], dim=1).numpy())
    for row in range(0, count, _COLUMNS):
        index.add(F.normalize(sums[row : row + _COLUMNS], dim=1).numpy())
    index.nprobe = min(probes, lists)
    for row in range(0, count, _ROWS):
        ends, similarity, b = index.range_search(F.normalize(sums[row : row + _ROWS], dim=1).numpy(), 1 - sigma)
        a = row + np.repeat(np.arange(len(ends) - 1), np.diff(ends).astype(np.int64))
        ahead = b > a  # found from either side; each pair once
        yield a[ahead], b[ahead], (1 - similarity[ahead]).astype(np.float32)


def _shortest(links: Links, most: int) -> Links:
    """Keep the `most` shortest links of each a."""
    a, b, distance = links
    order = np.lexsort((b, distance, a))
    begin = np.searchsorted(a[order], a[order], "left")
    order = order[np.arange(len(order)) - begin < most]
    return a[order], b[order], distance[order]


class Closure:
    """Groups that are joined by links, directly or through others; the smallest number stands for all.

    Args:
        count: Number of groups.
    """

    def __init__(self, count: int) -> None:
        self._root = np.arange(count)

    def join(self, a: Ints, b: Ints) -> None:
        """Join the groups a (n,) with the groups b (n,)."""
        while len(a):
            ra, rb = self._find(a), self._find(b)
            apart = ra != rb
            a, b, ra, rb = a[apart], b[apart], ra[apart], rb[apart]
            np.minimum.at(self._root, np.maximum(ra, rb), np.minimum(ra, rb))

    def roots(self) -> Ints:
        """(K,) the smallest number of the groups that each is joined with."""
        self._root = self._find(self._root)
        return self._root

    def _find(self, groups: Ints) -> Ints:
        found = self._root[groups]
        while (further := self._root[found] != found).any():
            found[further] = self._root[found[further]]
        return found


def close_all(count: int, links: Iterable[Links]) -> tuple[Ints, int]:
    """Join whatever is linked; return the roots (K,) and the number of links."""
    closure, total = Closure(count), 0
    for a, b, _ in links:
        closure.join(a, b)
        total += len(a)
    return closure.roots(), total


def close_guarded(
    sums: Tensor, images: Ints, links: Iterable[Links], max_radius: float, max_images: int
) -> tuple[Ints, int, int]:
    """Join the closest first, and only what stays compact: one wrong link cannot fuse two persons.

    Args:
        sums: (K, D) sums of unit features.
        images: (K,) images of each group.
        links: From `find_links` with ``nearest=NEAREST``.
        max_radius: Largest distance of a group's centroid to the centroid of all images that it is joined with.
        max_images: Most images of what is joined.

    Returns:
        The roots (K,), the number of links, and how many of them were refused.
    """
    parts = list(links)
    a, b, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((b, a, distance))
    unit, total = F.normalize(sums, dim=1).numpy(), dict[int, NDArray[np.float32]]()
    root, members, size = list(range(len(sums))), dict[int, list[int]](), images.tolist()
    raw, refused = sums.numpy(), set[tuple[int, int, int, int]]()
    count = 0

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for i, j in zip(a[order].tolist(), b[order].tolist(), strict=True):
        p, q = find(i), find(j)
        if p == q:
            continue
        key = (p, q, size[p], size[q]) if p < q else (q, p, size[q], size[p])
        if key in refused:
            count += 1
            continue
        both = members.get(p, [p]) + members.get(q, [q])
        joined = total.get(p, raw[p]) + total.get(q, raw[q])
        fits = size[p] + size[q] <= max_images
        if fits and (unit[both] @ joined).min() >= (1 - max_radius) * np.linalg.norm(joined):
            low, high = min(p, q), max(p, q)
            root[high], members[low], total[low] = low, both, joined
            size[low] += size[high]
            members.pop(high, None), total.pop(high, None)
        else:
            refused.add(key)
            count += 1
    return np.array([find(i) for i in range(len(root))], np.int64), len(a), count
