from __future__ import annotations

import json
from itertools import pairwise

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidzoo.cli.main import main
from reidzoo.errors import CheckpointError, ConfigError, DataError, DataNotFoundError
from reidzoo.eval import SearchIndex, extract_features, load_features, search
from reidzoo.eval.index import FEATURES

# Those that are here; each test of equality runs on all of them.
HAS_GPU_FAISS = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
BACKENDS = ["faiss", "torch", *(["faiss-gpu"] if HAS_GPU_FAISS else [])]


def brute_force(q, g, metric):
    """(Q, G) float64 distances, rounded so that what is equal by calculation is equal."""
    q, g = q.astype(float), g.astype(float)
    if metric == "euclidean":
        return np.linalg.norm(q[:, None] - g[None], axis=2).round(12)
    norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(g, axis=1)
    return (1 - np.divide(q @ g.T, norms, where=norms > 0, out=np.zeros_like(norms))).round(12)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((30, 16)).astype(np.float32), rng.standard_normal((500, 16)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_brute_force(arrays, metric, backend):
    q, g = arrays
    full = brute_force(q, g, metric)
    distances, indices = search(q, torch.from_numpy(g), 7, metric=metric, backend=backend)
    np.testing.assert_array_equal(indices, np.argsort(full, axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(full, axis=1)[:, :7], atol=1e-5)
    assert distances.dtype == np.float32
    assert indices.dtype == np.int64


@st.composite
def hard(draw):
    """Duplicates, ties and features that float32 can hardly tell apart."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d, k = draw(st.integers(1, 120)), draw(st.integers(1, 12)), draw(st.integers(1, 30))
    if draw(st.booleans()):
        q, g = rng.integers(-1, 2, (5, d)), rng.integers(-1, 2, (n, d))
    else:
        q, g = 1 + 1e-4 * rng.standard_normal((5, d)), 1 + 1e-4 * rng.standard_normal((n, d))
    return q.astype(np.float32), g[rng.integers(0, n, n)].astype(np.float32), k


@settings(max_examples=60, deadline=None, derandomize=True)
@given(hard(), st.sampled_from(["cosine", "euclidean"]))
def test_the_same_neighbours_on_every_backend(problem, metric):
    q, g, k = problem
    full = brute_force(q, g, metric)
    expected = np.sort(full, axis=1)[:, :k]
    found = [search(q, g, k, metric=metric, backend=backend)[1] for backend in BACKENDS]
    for indices in found:
        np.testing.assert_array_equal(indices, found[0])
    distances = np.take_along_axis(full, found[0], 1)
    np.testing.assert_allclose(distances**2, expected**2, atol=1e-11)
    for row in found[0]:  # equal images come in the order of the gallery
        assert all(i < j for i, j in pairwise(row) if np.array_equal(g[i], g[j]))


def test_more_neighbours_than_images_gives_all(arrays):
    q, g = arrays
    distances, indices = search(q, g[:5], 10)
    assert distances.shape == indices.shape == (30, 5)
    np.testing.assert_array_equal(np.sort(indices, axis=1), np.tile(np.arange(5), (30, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_distances_come_in_the_order_of_the_gallery(backend):
    eye = np.eye(4, dtype=np.float32)
    _, indices = search(eye[:1], eye[[1, 0, 2, 0, 3]], 5, backend=backend)
    np.testing.assert_array_equal(indices, [[1, 3, 0, 2, 4]])
    _, indices = search(eye[:1], np.tile(eye[:1], (900, 1)), 20, backend=backend)  # more ties than candidates
    np.testing.assert_array_equal(indices, [np.arange(20)])


def test_half_precision_memory_map(arrays, tmp_path):
    q, g = arrays
    np.save(tmp_path / "g.npy", g.astype(np.float16))
    stored = np.load(tmp_path / "g.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(q, stored, 5)[1], search(q, g.astype(np.float16).astype(np.float64), 5)[1])


def test_bad_input(arrays):
    q, g = arrays
    with pytest.raises(ConfigError, match="k is 0"):
        search(q, g, 0)
    with pytest.raises(ConfigError, match="Did you mean 'euclidean'"):
        search(q, g, metric="euclid")
    with pytest.raises(ConfigError, match="'faiss-gpu'"):
        search(q, g, backend="annoy")
    with pytest.raises(DataError, match="16 dimensions, gallery features 8"):
        search(q, g[:, :8])
    with pytest.raises(DataError, match="gallery is empty"):
        search(q, g[:0])
    g[4] = np.nan
    with pytest.raises(DataError, match=r"1 of 500 gallery features contain NaN.*first rows: 4\)"):
        search(q, g)


@pytest.mark.skipif(HAS_GPU_FAISS, reason="there is one")
def test_no_faiss_for_the_gpu(arrays):
    with pytest.raises(ConfigError, match=r"pip install 'reidzoo\[gpu\]'"):
        search(*arrays, backend="faiss-gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_torch_on_the_gpu_equals_the_cpu(arrays):
    for metric in ("cosine", "euclidean"):
        a, b = (search(*arrays, 20, metric=metric, backend="torch", device=device)[1] for device in ("cpu", "cuda"))
        np.testing.assert_array_equal(a, b)


# Approximate


def test_recall_is_that_of_the_neighbours_found(arrays):
    q, g = arrays
    index = SearchIndex(g, kind="IVF8,Flat", parameters="nprobe=1")
    found = index.search(q, 10)
    exact = search(q, g, 10)[1]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.indices, exact, strict=True)])
    assert found.recall == pytest.approx(expected)
    assert 0.1 < found.recall < 0.95
    everywhere = SearchIndex(g, kind="IVF8,Flat", parameters="nprobe=8").search(q, 10)
    assert everywhere.recall == 1
    np.testing.assert_array_equal(everywhere.indices, exact)
    np.testing.assert_allclose(everywhere.distances, search(q, g, 10)[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["HNSW16", "PQ4x4", "IVF4,PQ4x4"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_approximate_kinds(arrays, kind, metric):
    q, g = arrays
    found = SearchIndex(g, kind=kind, metric=metric).search(q, 5)
    assert 0 < found.recall <= 1
    assert (np.diff(found.distances[np.isfinite(found.distances).all(1)], axis=1) >= 0).all()


def test_an_index_that_finds_fewer_says_so(arrays):
    q, g = arrays
    found = SearchIndex(g, kind="IVF64,Flat").search(q, 100)
    missing = found.indices == -1
    assert missing.any()
    assert np.isinf(found.distances[missing]).all()
    assert np.isfinite(found.distances[~missing]).all()


def test_bad_kinds(arrays):
    _, g = arrays
    with pytest.raises(ConfigError, match="faiss cannot build 'FANCY7' from 500 images of 16"):
        SearchIndex(g, kind="FANCY7")
    with pytest.raises(ConfigError, match="faiss does not know parameters='nprobes=3'"):
        SearchIndex(g, kind="IVF4,Flat", parameters="nprobes=3")
    with pytest.raises(ConfigError, match="for approximate indexes"):
        SearchIndex(g, parameters="nprobe=3")


# On disk


@pytest.fixture
def stored(crops, model, tmp_path):
    extract_features(model, crops, out=tmp_path / FEATURES, num_workers=0)
    return tmp_path


@pytest.mark.parametrize("kind", ["exact", "HNSW8"])
def test_saved_and_opened(stored, kind):
    features = load_features(stored / FEATURES)
    index = SearchIndex(features, kind=kind)
    index.save(stored, model="mean colours")
    again = SearchIndex.open(stored)
    assert again.about == {"model": "mean colours"}
    assert list(again.features.records.path) == list(features.records.path)
    a, b = (i.search(np.asarray(features.values)[:9], 4) for i in (index, again))
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(a.distances, b.distances)


def test_features_of_another_model_are_refused(stored, crops, model, tmp_path_factory):
    SearchIndex(load_features(stored / FEATURES)).save(stored)
    index, other = SearchIndex.open(stored), tmp_path_factory.mktemp("other")
    extract_features(model, crops, out=other / "same.npy", num_workers=0)
    assert index.search(load_features(other / "same.npy"), 1).indices.ravel().tolist() == list(range(64))
    model.norm.weight.data *= 2
    extract_features(model, crops, out=other / "q.npy", num_workers=0)
    with pytest.raises(DataError, match="weights is"):
        index.search(load_features(other / "q.npy"))


def test_folders_that_hold_no_index(stored, tmp_path):
    with pytest.raises(DataNotFoundError, match="reidzoo search build"):
        SearchIndex.open(stored)
    SearchIndex(load_features(stored / FEATURES), kind="HNSW8").save(stored)
    (stored / "index.faiss").write_bytes(b"no index")
    with pytest.raises(CheckpointError, match="Build it anew"):
        SearchIndex.open(stored)
    (stored / "index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no index of reidzoo"):
        SearchIndex.open(stored)


def test_from_the_shell(crops, tmp_path, capsys, monkeypatch):
    """A person's other pictures are found by a query image, with the model and the settings of the index."""
    monkeypatch.chdir(tmp_path)
    folder = crops.path[0].rsplit("/", 1)[0]
    options = ["--num-workers", "0", "--img-size", "32x16", "--no-flip"]
    assert main(["search", "build", "timm/test_resnet", folder, "people", *options]) == 0
    assert "64 images" in capsys.readouterr().out
    assert main(["search", "query", "people", crops.path[3], "-k", "3", "--json", "--num-workers", "0"]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["queries"]
    assert hit["query"] == crops.path[3]
    assert hit["found"][0]["path"] == crops.path[3]
    assert hit["found"][0]["distance"] == pytest.approx(0, abs=1e-5)
    assert len(hit["found"]) == 3
    assert main(["search", "query", "people", crops.path[3], "--num-workers", "0"]) == 0
    assert "place" in capsys.readouterr().out
    words = ["search", "query", "people", crops.path[3], "--model", "timm/test_vit", "--num-workers", "0"]
    assert main(words) == 1
    assert "do not belong together" in capsys.readouterr().err
