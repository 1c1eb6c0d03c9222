"""Model cards and the folder of save_pretrained: what the hub, timm and a person read in them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from torch import nn

import reidzoo
from reidzoo.errors import ConfigError
from reidzoo.eval.report import EvalResult
from reidzoo.weights import licenses, model_card, save_pretrained


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return reidzoo.create_model("ghostnet_0_5").eval()


def licensed(network: nn.Module, license_id: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(network, "weights_license", license_id)
    return network


def test_own_weights_are_under_no_licence_until_somebody_says_so(network):
    data = ModelCard(model_card(network)).data
    assert data.license == "unknown"
    assert data.library_name == "reidzoo"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.tags == ["person-re-identification", "reid", "ghostnet"]
    assert "extra_gated_prompt" not in data
    card = ModelCard(model_card(network, license="cc-by-4.0"))
    assert card.data.license == "cc-by-4.0"
    assert "The weights: cc-by-4.0." in card.text


@pytest.mark.parametrize("license_id", ["reidzoo", "luperson"])
def test_licensed_weights_say_so_in_every_place(license_id, network, monkeypatch):
    card = ModelCard(model_card(licensed(network, license_id, monkeypatch)))
    terms = licenses.get(license_id)
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", license_id, terms.url)
    assert card.data["extra_gated_prompt"] == terms.text()
    text = card.text.replace("> ", "")
    assert all(term in text for term in terms.terms)
    assert terms.citation in text
    assert f"under the licence `{license_id}`" in text
    with pytest.raises(ConfigError, match="nobody but its owners"):
        model_card(network, license="apache-2.0")


def test_results_from_an_evaluation_and_from_numbers(network):
    cmc = np.array([0, 0.5, 0.6, 0.7, 0.75, 0.8])
    result = EvalResult(mAP=0.4321, cmc=cmc, mINP=0.1, per_query_ap=np.zeros(3), num_queries=3, num_valid=3)
    card = ModelCard(model_card(network, metrics={"Market-1501": result, "MSMT17": {"mAP": 0.25, "loss": 7.0}}))
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {
        ("Market-1501", "mAP"): 43.21,
        ("Market-1501", "mINP"): 10.0,
        ("Market-1501", "Rank-1"): 50.0,
        ("Market-1501", "Rank-5"): 80.0,
        ("MSMT17", "mAP"): 25.0,
    }
    assert "| data set | mAP | mINP | Rank-1 | Rank-5 |" in card.text
    assert "| Market-1501 | 43.2 | 10.0 | 50.0 | 80.0 |" in card.text
    assert "| MSMT17 | 25.0 |  |  |  |" in card.text


@pytest.mark.parametrize("metrics", [{"mAP": 93.7}, {"loss": 1.0}, {}, 0.5, {"Rank-1": -0.1}])
def test_metrics_that_are_none(metrics, network):
    with pytest.raises(ConfigError, match=r"metrics\['Market'\].*fractions in \[0, 1\]"):
        model_card(network, metrics={"Market": metrics})


def test_networks_of_others():
    with pytest.raises(ConfigError, match=r"Linear was not built by reidzoo.create_model"):
        model_card(nn.Linear(2, 2))


def test_the_lines_of_code_in_a_card_run(network, tmp_path):
    """As a reader would: the folder's name filled in, the rest as it is."""
    save_pretrained(network, tmp_path / "mine")
    code = (tmp_path / "mine" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    scope: dict = {}
    exec(code.replace("<this repository or folder>", str(tmp_path / "mine")), scope)
    x = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(scope["model"](x), network(x))
    assert scope["transform"] is not None


@pytest.mark.parametrize("name", ["ghostnet_0_5", "timm/test_vit", "timm/test_resnet"])
def test_timm_reads_the_folder(name, tmp_path):
    """Through timm's own readers, which know nothing of our header."""
    torch.manual_seed(1)
    model = reidzoo.create_model(name, img_size=(96, 64)).eval()
    folder = save_pretrained(model, tmp_path / "model")
    other = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(model(x), other(x))
    assert tuple(other.pretrained_cfg["input_size"]) == (3, 96, 64)
    assert tuple(other.pretrained_cfg["mean"]) == tuple(model.pretrained_cfg["mean"])
    config = json.loads((folder / "config.json").read_text())
    assert config["num_features"] == model.embed_dim
    assert config["reidzoo"]["model"] == name


def test_a_model_with_a_head_is_not_offered_to_timm(network, tmp_path):
    model = reidzoo.create_model("ghostnet_0_5", head="bnneck", num_classes=5)
    folder = save_pretrained(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert "architecture" not in config
    assert config["reidzoo"]["head"] == "bnneck"
    assert "with a 'bnneck' head for 5 identities" in (folder / "README.md").read_text()


def test_nothing_is_written_before_the_card_is_right(network, tmp_path):
    with pytest.raises(ConfigError):
        save_pretrained(network, tmp_path, metrics={"Market": {"mAP": 93.7}})
    assert not list(tmp_path.iterdir())
