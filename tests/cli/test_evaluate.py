"""`evaluate` and `extract` beyond one model and one data set."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import reidzoo
from reidzoo.cli.evaluate import split_names

OPTIONS = ["--num-workers", 0, "--device", "cpu", "--img-size", "64x32", "--no-flip"]
VIT, RESNET = "timm/test_vit", "timm/test_resnet"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("market1501:msmt17", ["market1501", "msmt17"]),
        ("market1501:/data/m:msmt17:/data/msmt17", ["market1501:/data/m", "msmt17:/data/msmt17"]),
        ("cuhk03@labeled:viper@3:folder:C:/x", ["cuhk03@labeled", "viper@3", "folder:C:/x"]),
        ("folder:/data/msmt17:market1501+msmt17:/x", ["folder:/data/msmt17", "market1501+msmt17:/x"]),
        ("market1501", ["market1501"]),
    ],
)
def test_names_joined_by_colons(text, expected):
    assert split_names(text) == expected


def test_several_models_on_several_sets(cli, people, tmp_path):
    market = reidzoo.data.write_synthetic(tmp_path / "m", identities=6, layout="market1501", size=(64, 32))
    words = ["evaluate", VIT, f"synthetic:{people}", "--cross", f"market1501:{market}", "--compare", RESNET, *OPTIONS]
    called = cli(*words, "--output-dir", tmp_path / "out", "--features-dir", tmp_path / "kept", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    pairs = [(model, data) for model in (VIT, RESNET) for data in ("synthetic", "market1501")]
    assert [(row["model"], row["data"]) for row in found] == pairs
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    for row, printed in zip(rows, found, strict=True):
        assert float(row["mAP"]) == pytest.approx(printed["mAP"], abs=1e-6)
        pair = f"{printed['model'].replace('/', '-')}/{printed['data']}"
        saved = json.loads((tmp_path / "out" / pair / "metrics.json").read_text())
        assert saved["mAP"] == printed["mAP"]
        assert (tmp_path / "out" / pair / "ranking.png").exists()

        query, gallery = (tmp_path / "kept" / pair / f"{split}.npy" for split in ("query", "gallery"))
        again = json.loads(cli("evaluate", query, gallery, "--json").out)
        assert again["mAP"] == pytest.approx(printed["mAP"], abs=1e-9)
    called = cli(*words)
    assert [line.split()[:2] for line in called.out.splitlines()[2:6]] == [list(pair) for pair in pairs]
    assert (tmp_path / "out" / "results.md").read_text().count("|") > 40


def test_extracted_files_are_evaluated(cli, people, tmp_path):
    for split in ("query", "gallery"):
        for ending in ("npy", "npz"):
            assert cli("extract", VIT, f"synthetic:{people}", tmp_path / f"{split}.{ending}", "--split", split, *OPTIONS).code == 0  # fmt: skip  # noqa: E501
    expected = json.loads(cli("evaluate", VIT, f"synthetic:{people}", "--json", *OPTIONS).out)
    for ending in ("npy", "npz"):
        files = [tmp_path / f"{split}.{ending}" for split in ("query", "gallery")]
        assert json.loads(cli("evaluate", *files, "--json").out) == expected
        plain, reranked = (json.loads(cli("evaluate", *files, "--json", *more).out) for more in ([], ["--rerank"]))
        assert plain["cmc"] != reranked["cmc"]
    called = cli("evaluate", *files, "--output-dir", tmp_path / "out")
    assert str(tmp_path / "out" / "metrics.json") in called.out
    with np.load(tmp_path / "query.npz") as saved:
        assert saved["split"].tolist() == ["query"] * len(saved["features"])


def test_files_that_do_not_belong_together(cli, crops, people, tmp_path):
    for name, model, images in (("a", VIT, crops), ("b", RESNET, crops)):
        assert cli("extract", model, images, tmp_path / f"{name}.npy", *OPTIONS).code == 0
    a, b = tmp_path / "a.npy", tmp_path / "b.npy"
    for words, message in (
        ([a, b], "do not belong together: weights"),
        ([a, a], "every image would find itself"),
        ([a], "in pairs"),
        ([a, f"synthetic:{people}"], "in pairs"),
        ([a, tmp_path / "c.npy"], "no feature file"),
        ([a, b, "--report", tmp_path / "r"], "--report needs a model and a data set"),
        ([VIT], "needs a data set"),
        ([VIT, f"synthetic:{people}", "--rerank", "--report", tmp_path / "r"], "leave out --rerank"),
        ([VIT, f"synthetic:{people}", "--protocol", "multi_query", *OPTIONS], "no further query images"),
    ):
        called = cli("evaluate", *words)
        assert called.code == 1
        assert message in called.err, called.err


def test_extract_keeps_what_others_made(cli, crops, tmp_path):
    out = tmp_path / "f.npy"
    assert cli("extract", VIT, crops, out, *OPTIONS).code == 0
    first = out.read_bytes()
    assert cli("extract", VIT, crops, out, *OPTIONS).code == 0, "the same again is no error"
    called = cli("extract", RESNET, crops, out, *OPTIONS)
    assert called.code == 1
    assert "--overwrite" in called.err
    assert out.read_bytes() == first
    assert cli("extract", RESNET, crops, out, *OPTIONS, "--overwrite", "--scales", "1,1.5").code == 0
    assert out.read_bytes() != first


def test_a_report(cli, people, tmp_path):
    called = cli("evaluate", RESNET, f"synthetic:{people}", *OPTIONS, "--report", tmp_path / "r")
    assert called.code == 0, called.err
    page = (tmp_path / "r" / "index.html").read_text()
    assert f"{RESNET} on synthetic" in page
    assert str(tmp_path / "r" / "index.html") in called.out
