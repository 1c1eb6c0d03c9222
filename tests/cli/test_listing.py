"""`models`, `info`, `doctor`, `data list`: what they say."""

from __future__ import annotations

import csv
import json
from importlib import resources

import pytest

import reidzoo
from reidzoo.data import list_datasets


def rows(text):
    """The cells of a printed table by the first column."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line) == {"-", " "})
    body = lines[rule + 1 : lines.index("", rule) if "" in lines[rule:] else None]
    return {cells[0]: cells[1:] for cells in (line.split() for line in body)}


def test_models_shows_the_zoo_with_the_published_numbers(cli):
    shown = rows(cli("models").out)
    assert list(shown) == reidzoo.list_models()
    table = csv.DictReader(resources.files("reidzoo").joinpath("models/reidzoo_results.csv").read_text().splitlines())
    published = {row["model"]: row for row in table if row["method"] == "transreid"}
    for name in reidzoo.list_models(tag="reidzoo"):
        cells, spec = shown[name], reidzoo.model_info(name)
        row = published[spec.published_name]
        assert cells[0] == spec.family
        assert cells[3:] == [
            str(spec.embed_dim),
            "256x128",
            *(row[k] for k in ("market_map", "market_r1", "msmt_map", "msmt_r1")),
            "-",
        ]
    assert shown["transreid_ssl_vit_small"][5:9] == ["91.2", "95.8", "66.3", "84.8"]
    assert shown["transreid_ssl_vit_base_ics"][5:9] == ["-"] * 4  # published at another input size alone


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ibn"], reidzoo.list_models("*ibn*")),
        (["resnet*0"], ["resnet50"]),
        (["--family", "volo"], ["volo_d1", "volo_d2", "volo_d3"]),
        (["--tag", "mobile"], reidzoo.list_models(tag="mobile")),
    ],
)
def test_models_filters(cli, words, expected):
    assert sorted(rows(cli("models", *words).out)) == sorted(expected)


def test_models_json(cli):
    listed = json.loads(cli("models", "--json").out)
    assert [m["name"] for m in listed] == reidzoo.list_models()
    assert listed[0]["results"][0]["market_map"] > 80


def test_models_without_a_match(cli):
    called = cli("models", "resnt50")
    assert called.code == 1
    assert "No model matches 'resnt50'. Did you mean 'resnet50'" in called.err
    called = cli("models", "--family", "vitt")
    assert called.code == 1
    assert "'vit'" in called.err


def test_info(cli):
    out = cli("info", "ResNet50_IBN").out
    for fact in (
        "resnet50_ibn",
        "2048",
        "23.51",
        "256x128",
        "93.7",
        "93.3",
        "ResNet50_IBN.pth",
        "license show",
    ):
        assert fact in out
    assert "0.0024 " in cli("info", "vit_base").out  # not 0.0024000000000000002
    facts = json.loads(cli("info", "resnet50_ibn", "--json").out)
    assert facts["embed_dim"] == 2048
    assert {r["method"] for r in facts["results"]} == {"mgn", "transreid"}


def test_data_list_shows_every_layout(cli):
    called = cli("data", "list")
    assert called.code == 0
    for name in list_datasets():
        assert f"\n{name}: " in "\n" + called.out
    assert "<root>/<person>/<image>.jpg" in called.out
    assert "REIDZOO_DATA" in called.out


def test_doctor(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("REIDZOO_DATA", str(tmp_path / "nowhere"))
    text = cli("doctor")
    report = json.loads(cli("doctor", "--json").out)
    assert text.code == 0
    assert report["system"]["reidzoo"].startswith(reidzoo.__version__)
    import faiss
    import numpy
    import torch

    assert report["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert report["packages"]["numpy"] == numpy.__version__
    assert faiss.get_compile_options().strip() in report["devices"]["faiss build"]
    assert report["environment"]["REIDZOO_DATA"] == str(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in report["folders"]["data (REIDZOO_DATA)"]
    assert "not there yet" in report["folders"]["data (REIDZOO_DATA)"]
    for section in report:
        assert section in text.out


def test_doctor_names_a_package_that_does_not_import(tmp_path, monkeypatch):
    """In a fresh interpreter, with a broken timm in front of the real one."""
    import subprocess
    import sys

    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    program = "import sys; from reidzoo.cli.main import main; sys.exit(main(['doctor']))"
    env = {**__import__("os").environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "BROKEN: operator torchvision::nms does not exist. Type: pip install" in done.stdout
