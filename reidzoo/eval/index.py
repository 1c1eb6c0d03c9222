"""A searchable gallery, in memory or in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from reidzoo._files import atomic
from reidzoo.errors import CheckpointError, ConfigError, DataNotFoundError
from reidzoo.eval._backends import BACKENDS, ApproximateBackend, create_backend
from reidzoo.eval._inputs import METRICS, Index, Metric, check_choice, check_dimensions, feature_rows, largest_norm
from reidzoo.eval._ranks import Vectors, exact_pairs, exact_similarity
from reidzoo.eval.feature_files import FeatureSet, check_same_model, load_features

FEATURES = "features.npy"  # within an index' folder
_ABOUT, _FAISS = "index.json", "index.faiss"
_FORMAT = 1
_SPARE = 8  # candidates beyond the k that were asked for
_SAMPLE = 100  # queries that recall is measured with
_EXACT_BYTES = 32 << 20  # of float64 similarities held at a time
_DECIMALS = 12  # float64 similarities that agree to these are equal


class Neighbours(NamedTuple):
    """What a search found.

    Attributes:
        distances: (Q, k) float32, ascending: 1 - cos, or the Euclidean distance; inf where nothing was found.
        indices: (Q, k) int64 gallery rows; -1 where an approximate index found fewer.
        recall: Share of the true k nearest that were found: 1.0 if the search is exact, else measured with 100 of the
            queries.
    """

    distances: NDArray[np.float32]
    indices: Index
    recall: float


class SearchIndex:
    """A gallery that can be searched again and again.

    An exact search gives the same neighbours on every backend: those of float64 arithmetic, images at equal distance in
    the order of the gallery. Backends only propose; what float32 cannot tell apart is compared in float64.

    Args:
        features: (G, D) of any real type, or a `FeatureSet`. Kept as they are, and once more as float32.
        metric: ``"cosine"`` (features need not be normalised) or ``"euclidean"``.
        kind: ``"exact"``, or a factory string of faiss for an approximate index: ``"IVF1024,Flat"``,
            ``"IVF4096,PQ64"``, ``"HNSW32"``.
        parameters: How thoroughly an approximate index searches: ``"nprobe=16"``, ``"efSearch=128"``.
        backend: For exact search: ``"faiss"`` (CPU), ``"torch"`` (any device), ``"faiss-gpu"`` (all GPUs; needs
            ``reidzoo[gpu]``), or ``"auto"``: torch if there is a GPU, else faiss.
        device: Of the torch backend; ``"auto"``: a GPU if there is one.

    Attributes:
        features: The gallery as a `FeatureSet`, or None if it was given as an array.
        about: What `save` was told beside: for the command line, the model's name and how images go through it.

    Raises:
        DataError: Features that are no finite (G, D) numbers.
        ConfigError: An unknown metric, kind, parameter or backend.
    """

    def __init__(
        self,
        features: ArrayLike | torch.Tensor | FeatureSet,
        *,
        metric: Metric = "cosine",
        kind: str = "exact",
        parameters: str = "",
        backend: str = "auto",
        device: str | torch.device = "auto",
        _file: Path | None = None,
    ) -> None:
        check_choice("metric", metric, METRICS)
        check_choice("backend", backend, BACKENDS)
        if kind == "exact" and parameters:
            raise ConfigError(f"parameters={parameters!r} are for approximate indexes; the search is exact.")
        self.features = features if isinstance(features, FeatureSet) else None
        self.about: dict[str, Any] = {}
        self.metric, self.kind, self.parameters = metric, kind, parameters
        rows = feature_rows("gallery", features.values if isinstance(features, FeatureSet) else features)
        self._gallery = Vectors(rows, scale=None if metric == "cosine" else largest_norm(rows) or 1.0)
        self._backend = create_backend(self._gallery, backend, device, kind, parameters, _file)

    def __len__(self) -> int:
        return len(self._gallery)

    def search(self, query: ArrayLike | torch.Tensor | FeatureSet, k: int = 10) -> Neighbours:
        """Find the `k` nearest gallery rows of every query.

        Args:
            query: (Q, D) features, or a `FeatureSet`, which is refused if another model made it.
            k: Neighbours wanted; a smaller gallery gives all it has, that is min(k, G).

        Returns:
            Distances (Q, min(k, G)), indices, and recall.

        Raises:
            DataError: Features that are not finite, of other dimensions, or of another model.
            ConfigError: `k` is below 1.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; it must be at least 1.")
        if isinstance(query, FeatureSet):
            if self.features is not None:
                check_same_model(query, self.features)
            query = query.values
        rows = feature_rows("query", query)
        check_dimensions(rows, self._gallery.rows)
        k = min(k, len(self))
        queries = Vectors(rows, scale=self._gallery.scale)
        if not self._backend.exact:
            return self._approximate(queries, k)
        similarity, indices = self._exact(queries, k)
        return Neighbours(self._gallery.distance(similarity), indices, 1.0)

    def _approximate(self, queries: Vectors, k: int) -> Neighbours:
        prepared = queries.take(slice(None), np.float32)[0]
        similarity, indices = self._backend.nearest(prepared, k)
        distances = np.where(indices >= 0, self._gallery.distance(similarity), np.inf).astype(np.float32)
        some = np.unique(np.linspace(0, len(queries) - 1, _SAMPLE).round().astype(np.int64))
        true = _exact_order(queries, some, self._gallery, k)
        found = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(indices[some], true, strict=True)])
        return Neighbours(distances, indices, float(found))

    def _exact(self, queries: Vectors, k: int) -> tuple[NDArray[np.float32], Index]:
        """Return (Q, k) similarities and indices; what the backend's float32 leaves open is settled."""
        wanted = min(k + _SPARE, len(self))
        prepared = queries.take(slice(None), np.float32)[0]
        length = max(1.0, float(np.sqrt(np.einsum("nd,nd->n", prepared, prepared).max())))
        value, index = self._backend.nearest(prepared, wanted)
        # Rounding errors of a product of D terms add up like a random walk (as in `_ranks`), on both sides.
        margin = 2 * length**2 * 2.0**-24 * (12 + 0.5 * prepared.shape[1] ** 0.5)
        unsure = ((value[:, :-1] - value[:, 1:])[:, :k] <= margin).any(axis=1)
        # Are there more than these that may be among the k nearest?
        open_end = (value[:, k - 1] - value[:, -1] <= margin) & (wanted < len(self))
        for rows in _parts(np.flatnonzero(open_end), len(self)):
            index[rows, :k] = _exact_order(queries, rows, self._gallery, k)
            value[rows[:, None], np.arange(k)] = self._pairs(queries, rows, index[rows, :k])
        for rows in _parts(np.flatnonzero(unsure & ~open_end), wanted):
            exact, at = self._pairs(queries, rows, index[rows]), index[rows]
            order = np.lexsort((at, -exact.round(_DECIMALS)))
            index[rows], value[rows] = np.take_along_axis(at, order, 1), np.take_along_axis(exact, order, 1)
        return value[:, :k], index[:, :k]

    def _pairs(self, queries: Vectors, rows: Index, index: Index) -> NDArray[np.float64]:
        """Return the float64 similarities of queries at `rows` with the images at `index`, (len(rows), n)."""
        pairs = exact_pairs(queries, np.repeat(rows, index.shape[1]), self._gallery, index.ravel())
        return pairs.reshape(index.shape)

    def save(self, folder: str | Path, **about: Any) -> Path:
        """Write the index into the folder that holds its features.

        Args:
            folder: Where ``features.npy`` is, as ``extract_features(..., out=folder / "features.npy")`` writes it.
            about: Further facts to keep, of types that JSON knows.

        Returns:
            The folder.

        Raises:
            ConfigError: The features are not those of this index.
        """
        folder = Path(folder)
        stored = load_features(folder / FEATURES)
        if stored.values.shape != self._gallery.rows.shape:
            raise ConfigError(f"{folder / FEATURES} holds {stored.values.shape}, not the features of this index.")
        if isinstance(self._backend, ApproximateBackend):
            with atomic(folder / _FAISS) as temporary:
                faiss.write_index(self._backend.index, str(temporary))
        settings = {"metric": self.metric, "kind": self.kind, "parameters": self.parameters}
        with atomic(folder / _ABOUT) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT, **settings, "about": about}, indent=1) + "\n")
        return folder

    @classmethod
    def open(cls, folder: str | Path, *, parameters: str | None = None, backend: str = "auto") -> SearchIndex:
        """Read an index that `save` wrote.

        Args:
            folder: Its folder.
            parameters: Search an approximate index differently than it was saved with.
            backend: As for the class.

        Raises:
            DataNotFoundError: There is no index in the folder.
            CheckpointError: Its files do not fit together.
        """
        folder = Path(folder)
        try:
            found = json.loads((folder / _ABOUT).read_text())
            settings = {key: found[key] for key in ("metric", "kind", "parameters")}
            about = found["about"]
        except FileNotFoundError:
            raise DataNotFoundError(
                f"There is no search index in {folder}. Make one with: reidzoo search build MODEL IMAGES {folder}"
            ) from None
        except (ValueError, KeyError, TypeError) as e:
            raise CheckpointError(f"{folder / _ABOUT} is no index of reidzoo ({e}). Build it anew.") from e
        if found.get("format") != _FORMAT:
            raise CheckpointError(f"{folder} holds an index of format {found.get('format')}; this reidzoo reads 1.")
        if parameters is not None:
            settings["parameters"] = parameters
        file = None if settings["kind"] == "exact" else folder / _FAISS
        index = cls(load_features(folder / FEATURES), **settings, backend=backend, _file=file)
        index.about = about
        return index


def _parts(rows: Index, width: int) -> list[Index]:
    """Cut `rows` so that float64 similarities of a part with `width` images have room."""
    step = max(1, _EXACT_BYTES // (8 * width))
    return [rows[i : i + step] for i in range(0, len(rows), step)]


def _exact_order(queries: Vectors, rows: Index, gallery: Vectors, k: int) -> Index:
    """Return the `k` nearest images, (len(rows), k), from float64 similarities with the whole gallery."""
    everything, found = np.arange(len(gallery)), [np.empty((0, k), np.int64)]
    for part in _parts(rows, len(gallery)):
        similarity = exact_similarity(queries, part, gallery, everything).round(_DECIMALS)
        found.append(np.argsort(-similarity, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)
