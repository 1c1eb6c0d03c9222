"""Terms are shown, accepted, recorded, and asked again when they change."""

from __future__ import annotations

import dataclasses
import json

import pytest

import reidzoo
from reidzoo.errors import LicenseNotAcceptedError, UnknownLicenseError
from reidzoo.weights import licenses


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path))
    monkeypatch.delenv("REIDZOO_ACCEPT_LICENSE", raising=False)
    return tmp_path


def test_pretrained_asks_for_acceptance_first(home):
    with pytest.raises(LicenseNotAcceptedError, match=r"non-commercial.*reidzoo license accept reidzoo") as e:
        reidzoo.create_model("resnet18", pretrained=True)
    assert "github.com/Zplusdragon/CION_ReIDZoo" in str(e.value)
    assert isinstance(e.value, PermissionError)


def test_acceptance_is_recorded_with_date_and_terms(home):
    assert licenses.accepted("reidzoo") is None
    done = licenses.accept("reidzoo")
    record = json.loads((home / "licenses" / "reidzoo.json").read_text())
    assert record == dataclasses.asdict(done) == dataclasses.asdict(licenses.accepted("reidzoo"))
    assert record["terms_sha256"] == licenses.get("reidzoo").terms_sha256
    assert record["accepted_at"][:2] == "20"
    licenses.require("reidzoo")
    with pytest.raises(LicenseNotAcceptedError):
        licenses.require("cion-al")  # one acceptance is not all
    assert reidzoo.licenses is licenses


def test_changed_terms_are_asked_again(home):
    done = licenses.accept("reidzoo")
    earlier = dataclasses.replace(done, terms_sha256="0" * 64)
    (home / "licenses" / "reidzoo.json").write_text(json.dumps(dataclasses.asdict(earlier)))
    assert licenses.accepted("reidzoo") is None
    with pytest.raises(LicenseNotAcceptedError, match=f"changed since you accepted them on {done.accepted_at[:10]}"):
        licenses.require("reidzoo")


def test_every_word_of_the_terms_counts():
    terms = licenses.get("reidzoo")
    assert terms.terms_sha256 != dataclasses.replace(terms, terms=terms.terms[1:]).terms_sha256
    assert terms.terms_sha256 != dataclasses.replace(terms, covers="less").terms_sha256


def test_automation(home, monkeypatch):
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "cion-al, reidzoo")
    licenses.require("reidzoo")
    assert licenses.accepted("reidzoo").how == "REIDZOO_ACCEPT_LICENSE"
    with pytest.raises(LicenseNotAcceptedError):
        licenses.require("luperson")


def test_automation_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    licenses.require("reidzoo")


def test_damaged_record_counts_as_none(home):
    licenses.accept("reidzoo")
    (home / "licenses" / "reidzoo.json").write_text('{"license": ')
    assert licenses.accepted("reidzoo") is None


def test_unknown_license():
    with pytest.raises(UnknownLicenseError, match=r"Did you mean 'reidzoo'"):
        licenses.accept("reidzo")


def test_every_backbone_has_known_terms():
    assert {reidzoo.model_info(name).license for name in reidzoo.list_models()} <= set(licenses.LICENSES)


def test_text_says_what_matters():
    text = licenses.get("reidzoo").text()
    for word in ("research", "redistribution", "commercial", "modification", "Cite", "privacy", "Access:", "summary"):
        assert word in text
