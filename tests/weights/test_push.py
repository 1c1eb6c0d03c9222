"""Models to the hub and back through huggingface_hub's own client: what is uploaded, and what is refused."""

from __future__ import annotations

import itertools

import pytest

count = itertools.count()
LOAD = """
import torch, reidzoo
x = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))
def outputs(model):
    with torch.no_grad():
        return model.eval()(x)
def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
"""


@pytest.mark.parametrize("head", ["None", "'bnneck'"])
def test_push_and_load(head, hub, client, tmp_path):
    """push_to_hub makes a private repository, and what is loaded from there is what was pushed, bit for bit.

    A backbone is loaded by timm too.
    """
    name = f"lab/pushed-{len(head)}"
    code = f"""
from reidzoo.weights.hub import from_pretrained, push_to_hub
torch.manual_seed(1)
model = reidzoo.create_model("ghostnet_0_5", head={head}, num_classes={7 if head != "None" else 0}, img_size=(64, 32))
url = push_to_hub(model, "{name}", license="apache-2.0", metrics={{"Market-1501": {{"mAP": 0.5}}}})
other = from_pretrained("{name}", cache_dir=cache)
again = reidzoo.create_model("hf-hub:{name}", cache_dir=cache)
if {head} is None:
    import timm
    again = timm.create_model("hf-hub:{name}", pretrained=True, cache_dir=cache)
result = [url, same(model, other), same(model, again), torch.equal(outputs(model), outputs(other)),
          other.pretrained_cfg["input_size"], outputs(other).shape]
"""
    answer = client(LOAD + code, cache=str(tmp_path), token="hf_lab")
    url, *equal, size, shape = answer["result"]
    assert all(equal)
    assert size == [3, 64, 32]
    assert shape == [2, 1280]
    repo = hub.repos[name]
    assert url == f"{hub.url}/{name}/commit/{repo.refs['main']}"
    assert repo.private
    files = repo.commits[repo.refs["main"]]
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert b"license: apache-2.0" in files["README.md"]
    assert len(repo.commits) == 2  # one commit behind the empty repository's: nobody sees weights without their card


def test_pretrained_from_the_configured_repository(hub, client, tmp_path):
    """No request before the licence is accepted; afterwards the official file loads, and knows what it is under."""
    make = """
from reidzoo.models import to_official
torch.manual_seed(2)
model = reidzoo.create_model("ghostnet_0_5")
state = {f"module.backbone.{k}": t for k, t in to_official(model.state_dict(), model).items()}
torch.save({"teacher": state}, cache + "/official.pth")
"""
    assert "error" not in client(LOAD + make, cache=str(tmp_path))
    hub.add("lab/zoo", {"GhostNet_0_5.pth": (tmp_path / "official.pth").read_bytes()}, gated="manual")
    load = """
os.environ["REIDZOO_HUB_REPO"] = "lab/zoo"
os.environ["REIDZOO_ACCEPT_LICENSE"] = accept
model = reidzoo.create_model("ghostnet_0_5", pretrained=True, cache_dir=cache)
official = reidzoo.create_model("ghostnet_0_5", weights=cache + "/official.pth")
result = [same(model, official), model.weights_license]
"""
    settings = {"cache": str(tmp_path), "token": "hf_lab"}
    assert client(LOAD + load, accept="", **settings)["error"] == "LicenseNotAcceptedError"
    assert not hub.requests("lab/zoo", "HEAD")
    assert client(LOAD + load, accept="reidzoo", **settings)["result"] == [True, "reidzoo"]


def test_where_from_pretrained_looks(hub, client, tmp_path):
    """A folder, a name of the zoo, a repository; a folder that is not there is said to be neither."""
    code = "from pathlib import Path; from reidzoo.weights.hub import from_pretrained, save_pretrained\n"
    save = """
os.chdir(cache)
model = reidzoo.create_model("ghostnet_0_5")
save_pretrained(model, "runs/mine")
result = [same(model, from_pretrained(p)) for p in ("runs/mine", Path("runs/mine"), "local-dir:runs/mine")]
"""
    assert client(LOAD + code + save, cache=str(tmp_path))["result"] == [True, True, True]
    for source, error, words in (
        ("'ghostnet_0_5'", "LicenseNotAcceptedError", "reidzoo license accept reidzoo"),
        ("'runs/other'", "HubAccessError", "(There is no folder runs/other here either.)"),
        ("'./other'", "WeightsNotFoundError", "other"),
        ("Path('runs/other')", "WeightsNotFoundError", "runs/other"),
    ):
        answer = client(f"{code}from_pretrained({source})")
        assert answer["error"] == error, answer
        assert words in answer["message"]


# -- what may be uploaded

PUSH = (
    LOAD
    + """
os.environ["REIDZOO_ACCEPT_LICENSE"] = accept
from reidzoo.weights.hub import push_to_hub
model = reidzoo.create_model("ghostnet_0_5")
model.weights_license = "reidzoo"
result = push_to_hub(model, repo, **options)
"""
)


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"private": True}, {}, "add allow_licensed=True"),
        ({}, {}, "add allow_licensed=True"),
        (None, {}, "add allow_licensed=True"),
        ({}, {"allow_licensed": True}, "is public"),
        (None, {"allow_licensed": True, "private": False}, "would be made public"),
        ("opened", {"allow_licensed": True}, "is public"),
    ],
)
def test_licensed_weights_are_not_uploaded(settings, options, words, hub, client):
    """`opened`: asked for as private, but public when it is there."""
    name = f"lab/no-{next(count)}{'-opened' if settings == 'opened' else ''}"
    if isinstance(settings, dict):
        hub.add(name, {".gitattributes": b""}, **settings)
    answer = client(PUSH, repo=name, options=options, token="hf_lab", accept="reidzoo")
    assert answer["error"] == "LicenseNotAcceptedError", answer
    assert words in answer["message"]
    assert "reidzoo" in answer["message"]
    assert not [r for r in hub.log if name in r.path and r.method in ("POST", "PUT")]
    assert (name in hub.repos) == (settings is not None)
    assert "model.safetensors" not in str(hub.repos.get(name))


def test_licensed_weights_are_not_uploaded_by_who_has_not_accepted(hub, client):
    answer = client(PUSH, repo="lab/mine", options={"allow_licensed": True}, token="hf_lab", accept="")
    assert answer["error"] == "LicenseNotAcceptedError"
    assert "reidzoo license accept reidzoo" in answer["message"]
    assert "lab/mine" not in hub.repos


@pytest.mark.parametrize("settings", [{"private": True}, {"gated": "manual"}, {"gated": "auto"}, None], ids=str)
def test_licensed_weights_go_where_they_may(settings, hub, client):
    name = f"lab/yes-{next(count)}"
    if settings is not None:
        hub.add(name, {".gitattributes": b""}, **settings)
    answer = client(PUSH, repo=name, options={"allow_licensed": True}, token="hf_lab", accept="reidzoo")
    assert answer["result"].startswith(f"{hub.url}/{name}/commit/")
    repo = hub.repos[name]
    assert repo.private or repo.gated
    card = repo.commits[repo.refs["main"]]["README.md"].decode()
    assert "license_name: reidzoo" in card
    assert "No redistribution" in card


@pytest.mark.parametrize(
    ("token", "words"), [("", "not logged in"), ("hf_member", "tokens"), ("hf_expired", "does not accept your token")]
)
def test_a_push_without_the_right(token, words, hub, client):
    code = LOAD + "reidzoo.weights.push_to_hub(reidzoo.create_model('ghostnet_0_5'), 'lab/not-mine')"
    answer = client(code, token=token)
    assert answer["error"] == "HubAccessError", answer
    assert words in answer["message"]
    assert "lab/not-mine" not in hub.repos
