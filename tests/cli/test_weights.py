"""`reidzoo weights` and `reidzoo license`, as a user types them."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
import torch

import reidzoo
from reidzoo.cli.main import main
from reidzoo.models import to_official
from reidzoo.weights import licenses, store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REIDZOO_ACCEPT_LICENSE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def official_file(tmp_path, official_container):
    torch.manual_seed(5)
    model = reidzoo.create_model("ghostnet_0_5")
    path = tmp_path / "ReIDZoo" / "GhostNet_0_5.pth"
    path.parent.mkdir()
    state = to_official(model.state_dict(), model)
    torch.save(official_container(state, "module.backbone.", "ghostnet_0_5"), path)
    return path


def test_the_whole_way(official_file, monkeypatch, capsys, tmp_path):
    """Import is refused until the licence is accepted; then the store can do everything."""
    folder = str(official_file.parent)
    assert main(["weights", "import", folder]) == 1
    assert "reidzoo license accept reidzoo" in capsys.readouterr().err

    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    assert main(["license", "accept", "reidzoo"]) == 1
    assert licenses.accepted("reidzoo") is None
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert main(["license", "accept", "reidzoo"]) == 0
    shown = capsys.readouterr().out
    assert "No redistribution" in shown  # the terms come before the question
    assert licenses.accepted("reidzoo").how == "interactive"
    assert main(["license", "accept", "reidzoo"]) == 0  # no question any more
    assert "were accepted here on" in capsys.readouterr().out

    assert main(["weights", "import", folder]) == 0
    assert "ghostnet_0_5" in capsys.readouterr().out
    assert main(["weights", "path", "GhostNet_0_5"]) == 0
    assert capsys.readouterr().out.strip() == str(store.find("ghostnet_0_5").path)
    assert main(["weights", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["name"], entry["license"], entry["source"]) == ("ghostnet_0_5", "reidzoo", str(official_file))
    assert main(["weights", "verify"]) == 0
    assert "1 of 1 are as they were imported" in capsys.readouterr().out

    out = tmp_path / "exported.pth"
    assert main(["weights", "export", "ghostnet_0_5", "--layout", "official", str(out)]) == 0
    exported = torch.load(out, weights_only=True)["teacher"]
    original = torch.load(official_file, weights_only=False)["teacher"]
    assert all(torch.equal(t, original[key]) for key, t in exported.items())
    assert {key for key in original if ".head." not in key} == set(exported)

    assert main(["weights", "remove", "ghostnet_0_5"]) == 0
    capsys.readouterr()
    assert main(["weights", "path", "ghostnet_0_5"]) == 1
    assert "reidzoo weights import FILE" in capsys.readouterr().err


def test_verify_says_what_is_damaged(official_file, monkeypatch, capsys):
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    assert main(["weights", "import", str(official_file)]) == 0
    path = store.find("ghostnet_0_5").path
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 255
    path.write_bytes(raw)
    capsys.readouterr()
    assert main(["weights", "verify", "ghostnet_0_5"]) == 1
    out = capsys.readouterr().out
    assert str(path) in out
    assert "0 of 1" in out


def test_models_and_info_say_whether_weights_are_here(official_file, monkeypatch, capsys):
    def row(name):
        assert main(["models", name]) == 0
        return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(name)).split()

    assert row("ghostnet_0_5")[-1] == "-"
    assert main(["info", "ghostnet_0_5"]) == 0
    assert "not here; type: reidzoo weights import GhostNet_0_5.pth" in capsys.readouterr().out
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    assert main(["weights", "import", "--link", str(official_file)]) == 0
    capsys.readouterr()
    assert row("ghostnet_0_5")[-1] == "linked"
    store.remove("ghostnet_0_5")
    assert main(["weights", "import", str(official_file)]) == 0
    capsys.readouterr()
    assert row("ghostnet_0_5")[-1] == "here"
    for command in (["models", "ghostnet_0_5", "--json"], ["info", "ghostnet_0_5", "--json"]):
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found[0] if isinstance(found, list) else found)["weights"] == str(store.find("ghostnet_0_5").path)
    assert main(["info", "ghostnet_0_5"]) == 0
    out = capsys.readouterr().out
    assert "pretrained=True" in out
    assert "reidzoo (accepted 20" in out
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "1 backbones" in out
    assert "cion-al" in out


def test_nobody_to_ask():
    """Under cron there is no terminal: the error names the way for automation."""
    code = "import sys; from reidzoo.cli.main import main; sys.exit(main(['license', 'accept', 'reidzoo']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "REIDZOO_ACCEPT_LICENSE=reidzoo" in done.stderr
    assert licenses.accepted("reidzoo") is None


def test_status_and_show(capsys):
    assert main(["license", "status"]) == 0
    assert "cion-al" in capsys.readouterr().out
    assert main(["license", "show"]) == 0
    assert all(licenses.get(i).title in capsys.readouterr().out for i in ("reidzoo",))
    assert main(["license", "show", "reidzo"]) == 1
    assert "Did you mean 'reidzoo'" in capsys.readouterr().err


def test_empty_store(capsys):
    assert main(["weights", "list"]) == 0
    assert "reidzoo weights import PATH" in capsys.readouterr().out
    assert main(["weights", "verify"]) == 0
    assert main(["weights"]) == 2
