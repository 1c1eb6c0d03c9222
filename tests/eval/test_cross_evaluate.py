from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from reidzoo.data import write_synthetic
from reidzoo.data.records import Records
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval import (
    EvalResult,
    Rerank,
    Row,
    compute_metrics,
    cross_evaluate,
    dataset_features,
    evaluate,
    extract_features,
    results_table,
    score,
)
from reidzoo.eval.protocols import MultiQuery
from reidzoo.eval.tables import Published, published_result
from reidzoo.models import create_model, model_info

HOW = {"num_workers": 0, "flip": False}


@pytest.fixture
def model(model):
    """A poor one: it looks at two noisy pixels, so that every rule makes a difference."""
    model.pool = nn.Identity()
    model.norm = nn.Identity()
    forward = model.forward
    model.forward = lambda x: forward(x[:, :, [1, -2], 5])
    return model


def test_every_model_on_every_data_set(model, dataset, tmp_path):
    other = create_model("timm/test_resnet", img_size=(64, 32))
    smaller = replace(dataset, name="smaller", gallery=dataset.gallery.select(np.arange(30)))
    models = {"grid": model, "timm/x": other}
    found = list(cross_evaluate(models, [dataset, smaller], features_dir=tmp_path, metric="cosine", **HOW))
    pairs = [("grid", "crops"), ("grid", "smaller"), ("timm/x", "crops"), ("timm/x", "smaller")]
    assert [(e.row.model, e.row.data) for e in found] == pairs
    for e in found:
        alone = evaluate(e.model, e.data, metric="cosine", **HOW)
        np.testing.assert_array_equal(e.result.per_query_ap, alone.per_query_ap)
        kept = np.load(tmp_path / e.folder / "gallery.npy")
        np.testing.assert_array_equal(kept, extract_features(e.model, e.data.gallery, **HOW))
    assert (tmp_path / "timm-x" / "smaller" / "query.ids.csv").exists()


def test_data_sets_of_one_name_are_told_apart(model, dataset, tmp_path):
    found = cross_evaluate({"m": model}, [dataset, replace(dataset, root=tmp_path)], **HOW)
    assert [e.row.data for e in found] == [f"crops:{dataset.root}", f"crops:{tmp_path}"]


def test_kept_features_serve_another_metric(model, dataset, tmp_path, monkeypatch):
    first = evaluate(model, dataset, features_dir=tmp_path, **HOW)
    calls = []
    forward = model.forward
    model.forward = lambda x: (calls.append(len(x)), forward(x))[1]
    second = evaluate(model, dataset, features_dir=tmp_path, metric="euclidean", **HOW)
    assert sum(calls) == 2, "one image of each split, for the width"
    assert second.mAP != first.mAP
    assert second.mAP == evaluate(model, dataset, metric="euclidean", **HOW).mAP


def test_rules_are_those_of_compute_metrics(model, dataset):
    features = dataset_features(model, dataset, **HOW)
    q, g = dataset.query, dataset.gallery

    def expected(**rules):
        return compute_metrics(features.query, features.gallery, q.pid, g.pid, q.camid, g.camid, **rules).per_query_ap

    for given, rules in (
        ({"ap": "trapezoid"}, {"ap": "trapezoid"}),
        ({"protocol": "no_camera"}, {"protocol": "no_camera"}),
        ({"rerank": True}, {"rerank": Rerank()}),
        ({"rerank": Rerank(k1=5, k2=2)}, {"rerank": Rerank(k1=5, k2=2)}),
        ({"rerank": False}, {}),
    ):
        np.testing.assert_array_equal(evaluate(model, dataset, **given, **HOW).per_query_ap, expected(**rules))
        np.testing.assert_array_equal(score(dataset, features, **given).per_query_ap, expected(**rules))
    assert not np.array_equal(expected(), expected(rerank=Rerank()))


@pytest.mark.parametrize(("name", "pool"), [("multi_query", "average"), ("multi_query_max", "max")])
def test_multi_query_searches_with_the_further_images(model, dataset, name, pool):
    more = replace(dataset, query=dataset.query.select([0, 1, 2]), multi_query=dataset.query.select(np.arange(16)))
    features = [extract_features(model, r, **HOW) for r in (more.query, more.gallery, more.multi_query)]
    rule = MultiQuery(features=features[2], ids=more.multi_query.pid, cams=more.multi_query.camid, pool=pool)
    q, g = more.query, more.gallery
    expected = compute_metrics(*features[:2], q.pid, g.pid, q.camid, g.camid, protocol=rule)
    found = evaluate(model, more, protocol=name, **HOW)
    np.testing.assert_array_equal(found.per_query_ap, expected.per_query_ap)
    with pytest.raises(DataError, match=r"no further query images.*gt_bbox"):
        evaluate(model, replace(more, multi_query=Records.empty()), protocol=name, **HOW)


def result(mAP, rank1, valid=4):
    cmc = np.array([0, rank1, *[1.0] * 9])
    return EvalResult(mAP, cmc, mAP / 2, np.full(4, mAP), num_queries=4, num_valid=valid)


ROWS = [
    Row("resnet18", "market1501", result(0.875, 0.95), Published(0.9, 0.96, "tuned")),
    Row("a|b", "crops", result(0.5, 0.6251, valid=3)),
]


def test_table_as_text():
    assert results_table(ROWS).splitlines() == [
        "model     data         mAP  Rank-1  Rank-5  Rank-10  mINP  published mAP  published Rank-1",
        "------------------------------------------------------------------------------------------",
        "resnet18  market1501  87.5    95.0   100.0    100.0  43.8           90.0              96.0",
        "a|b       crops       50.0    62.5   100.0    100.0  25.0              -                 -",
        "published: the backbone tuned",
        "a|b, crops: 1 of 4 queries have no true match and are left out of the means",
    ]
    assert "published" not in results_table(ROWS[1:])


def test_table_as_markdown_and_csv():
    lines = results_table(ROWS, "markdown").splitlines()
    assert lines[2] == "| resnet18 | market1501 | 87.5 | 95.0 | 100.0 | 100.0 | 43.8 | 90.0 | 96.0 |"
    assert r"a\|b" in lines[3]
    first, second = csv.DictReader(results_table(ROWS, "csv").splitlines())
    assert (float(first["mAP"]), float(first["published mAP"]), first["published how"]) == (0.875, 0.9, "tuned")
    assert (float(second["Rank-1"]), second["published mAP"], second["valid queries"]) == (0.6251, "", "3")
    with pytest.raises(ConfigError, match="latex"):
        results_table(ROWS, "latex")


def test_published_figures(dataset, tmp_path):
    (transreid, *_) = [r for r in model_info("resnet18").results if r.method == "transreid"]
    with torch.device("meta"):
        backbone = create_model("resnet18")
    market, msmt = (replace(dataset, name=name) for name in ("market1501", "msmt17"))
    assert published_result(backbone, market).mAP == pytest.approx(transreid.market_map / 100)
    assert published_result(backbone, msmt).rank1 == pytest.approx(transreid.msmt_r1 / 100)
    assert "256x128" in published_result(backbone, msmt).how
    assert published_result(backbone, dataset) is None
    assert published_result(nn.Identity(), market) is None
    drawn = write_synthetic(tmp_path / "drawn", identities=4, layout="market1501", size=(64, 32))
    assert published_result(backbone, replace(market, root=drawn)) is None
