from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reidzoo.data.records import Records
from reidzoo.errors import DataError, UnknownModelError
from reidzoo.eval import compute_metrics, evaluate
from reidzoo.models import create_model
from reidzoo.weights import save_model


def mean_colours(records):
    """The test model, with NumPy: grid means of the pixels, then the batch norm's epsilon."""
    from PIL import Image

    rows = []
    for path in records.path:
        pixels = (np.asarray(Image.open(path), float) / 255 - 0.5) / 0.5
        pixels = (pixels + pixels[:, ::-1]) / 2
        rows.append(pixels.reshape(8, 8, 4, 8, 3).mean((1, 3)).transpose(2, 0, 1).ravel() / np.sqrt(1 + 1e-5))
    return np.array(rows)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_features_by_hand(model, dataset, metric):
    found = evaluate(model, dataset, metric=metric, num_workers=0)
    query, gallery = dataset.query, dataset.gallery
    expected = compute_metrics(
        mean_colours(query), mean_colours(gallery), query.pid, gallery.pid, query.camid, gallery.camid, metric=metric
    )
    np.testing.assert_allclose(found.per_query_ap, expected.per_query_ap)
    assert found.mAP > 0.8


def test_query_and_gallery_may_share_files(model, dataset):
    same = replace(dataset, gallery=dataset.query)
    assert evaluate(model, same, num_workers=0).num_valid == len(dataset.query)


@pytest.mark.parametrize("split", ["query", "gallery"])
def test_an_empty_split_says_what_to_do(model, dataset, split):
    with pytest.raises(DataError, match=f"no {split} images.*CSV"):
        evaluate(model, replace(dataset, **{split: Records.empty()}))


def test_a_model_file_by_path(dataset, tmp_path):
    torch.manual_seed(0)
    model = create_model("ghostnet_0_5", img_size=(64, 32))
    save_model(model, tmp_path / "model.safetensors")
    expected = evaluate(model, dataset, num_workers=0)
    for name in (tmp_path, str(tmp_path / "model.safetensors")):
        found = evaluate(name, dataset, num_workers=0)
        np.testing.assert_array_equal(found.per_query_ap, expected.per_query_ap)


def test_a_name_without_weights_is_said_to_be_untrained(dataset, caplog):
    evaluate("ghostnet_0_5", dataset, num_workers=0, img_size=(64, 32))
    assert "random weights" in caplog.text
    with pytest.raises(UnknownModelError, match="ghostnet_0_5"):
        evaluate("gostnet_0_5", dataset)
