"""Query expansion: features that ask with their neighbours."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from reidzoo.errors import ConfigError
from reidzoo.eval._neighbours import Points, full_precision, nearest
from reidzoo.eval.rerank import as_device, as_pair


def expand(
    query: ArrayLike | Tensor,
    gallery: ArrayLike | Tensor,
    k: int = 5,
    alpha: float = 3.0,
    *,
    times: int = 1,
    device: str | torch.device = "auto",
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Replace every feature by the mean of its nearest ones, weighted with ``cos ** alpha``.

    Average query expansion over queries and gallery together, as in fast-reid (Radenović et al., "Fine-tuning CNN
    Image Retrieval with No Human Annotation", 2018): the gallery is expanded too, and queries see other queries. Say
    so beside numbers. Use the results with ``metric="cosine"``.

    Args:
        query: (Q, D) array or tensor of any real type; rows need not be normalised, and weigh by their length.
        gallery: (G, D), likewise.
        k: Nearest features that are averaged, the feature itself included.
        alpha: The higher, the less the further ones weigh; 0: a plain mean. Negative cosines weigh nothing.
        times: How often to do so.
        device: Where to compute; ``"auto"``: a GPU if there is one.

    Returns:
        The expanded features, (Q, D) and (G, D) float32.

    Raises:
        DataError: Shapes that do not fit, an empty side, or features that are NaN or infinite.
        ConfigError: `k` or `times` below 1, or a negative `alpha`.
    """
    if k < 1 or times < 1 or alpha < 0:
        raise ConfigError(f"k={k}, times={times} and alpha={alpha} must be at least 1, 1 and 0.")
    pair = as_pair(query, gallery)
    features = np.concatenate(pair, dtype=np.float32)
    with torch.inference_mode(), full_precision():
        for _ in range(times):
            features = _expanded(features, k, alpha, as_device(device))
    return features[: len(pair[0])], features[len(pair[0]) :]


def _expanded(features: NDArray[np.float32], k: int, alpha: float, device: torch.device) -> NDArray[np.float32]:
    points = Points([features], True, device)
    rank, _ = nearest(points, k)
    row = torch.arange(len(rank), device=device).repeat_interleave(rank.shape[1])
    cosine = 1 - points.paired(row, rank.flatten()).view_as(rank) * (points.scale**2 / 2)
    weight = cosine.clamp_(min=0).pow_(alpha).div_(rank.shape[1]).cpu()
    original, expanded = torch.from_numpy(features), torch.zeros(features.shape)
    for neighbour, w in zip(rank.cpu().unbind(1), weight.unbind(1), strict=True):
        for start in range(0, len(features), 4096):
            rows = slice(start, start + 4096)
            expanded[rows].addcmul_(original[neighbour[rows]], w[rows, None])
    result: NDArray[np.float32] = expanded.numpy()
    return result
