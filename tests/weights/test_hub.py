"""The hub test matrix: huggingface_hub's own client, and a server that answers, refuses and breaks off like the hub."""

from __future__ import annotations

import hashlib
import itertools
import random
import re

import pytest

from reidzoo.errors import ConfigError
from reidzoo.weights import hub as hub_module

DOWNLOAD = """
import hashlib
import reidzoo
from reidzoo.weights.hub import download, set_hub_repo
set_hub_repo(repo)
path = download(reidzoo.model_info("ghostnet_0_5"), cache)
result = {"name": path.name, "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
"""
# The same for cases that run side by side in one process: the configured repository is the process's, not the thread's.
BESIDE = DOWNLOAD.replace("set_hub_repo(repo)\n", "from reidzoo.weights._hub_cache import fetch\n").replace(
    'download(reidzoo.model_info("ghostnet_0_5"), cache)', 'fetch(repo, None, ("ghostnet_0_5.safetensors",), cache)'
)
# huggingface_hub pauses 1, 2, 4, 8 and 8 seconds between its tries.
SHORT_PAUSES = "import time; pause = time.sleep; time.sleep = lambda seconds: pause(seconds / 20)"
FILE = "ghostnet_0_5.safetensors"
count = itertools.count()
LARGE = 12 << 20  # huggingface_hub writes pieces of 10 MiB: only what is longer can go on in its middle


def content(seed: int, size: int = 50_000) -> bytes:
    return random.Random(seed).randbytes(size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def slow(hub, new_client):
    """Cases that take seconds of waiting, started together before the others: name -> answer when it is there."""
    hub.add("slow/errors", {FILE: content(1)}).faults.status = 503
    hub.add("slow/busy", {FILE: content(1)}).faults.status = 429
    hub.add("slow/cuts", {FILE: content(2)}).faults.always_cut = True
    hub.add("slow/stalls", {FILE: content(3)}).faults.stalls = [20_000]
    hub.add("slow/drips", {FILE: content(4)}).faults.pause = 0.2
    waiting = new_client(HF_HUB_DOWNLOAD_TIMEOUT="1")
    nowhere = new_client("http://127.0.0.1:9")
    for client in (waiting, nowhere):
        client(SHORT_PAUSES)
    root = nowhere.stderr.parent
    numbers = {
        name: (waiting, waiting.start(BESIDE, repo=f"slow/{name}", cache=str(root / name)))
        for name in ("errors", "busy", "cuts", "stalls", "drips")
    }
    numbers["nowhere"] = nowhere, nowhere.start(BESIDE, repo="lab/unknown", cache=str(root / "nowhere"))
    return lambda name: numbers[name][0].wait(numbers[name][1])


@pytest.fixture(autouse=True)
def started(slow):
    """Let the slow cases run beside all the others."""


# -- names


@pytest.mark.parametrize("name", ["lab/zoo", "lab/zoo@v1.0", "La-b/z.o_o@refs/pr/1"])
def test_hub_repo_is_kept_for_child_processes(name, monkeypatch):
    monkeypatch.delenv("REIDZOO_HUB_REPO", raising=False)
    assert hub_module.hub_repo() is None
    hub_module.set_hub_repo(name)
    owner, _, revision = name.partition("@")
    assert hub_module.hub_repo() == (owner, revision or None)
    hub_module.set_hub_repo(None)
    assert hub_module.hub_repo() is None


@pytest.mark.parametrize(
    "name", ["zoo", "a/b/c", "lab/", "/zoo", "lab/zoo@", "lab/z oo", "lab/..", "a--b/c", "lab/zoo.git", "lab/zoo@a b"]
)
def test_malformed_names(name, monkeypatch):
    with pytest.raises(ConfigError, match=r"owner/name@revision.*found"):
        hub_module.set_hub_repo(name)
    monkeypatch.setenv("REIDZOO_HUB_REPO", name)
    with pytest.raises(ConfigError, match="REIDZOO_HUB_REPO"):
        hub_module.hub_repo()


# -- what goes well


def test_a_download_and_what_is_asked_again(hub, client, tmp_path):
    """Either file serves; the second load asks whether there is news and downloads nothing; the token stays home."""
    data = content(10)
    hub.add("lab/plain", {"GhostNet_0_5.pth": data}, private=True)
    for _ in range(2):
        answer = client(DOWNLOAD, repo="lab/plain", cache=str(tmp_path), token="hf_lab")
        assert answer["result"] == {"name": "GhostNet_0_5.pth", "bytes": len(data), "sha256": digest(data)}
    (body,) = hub.bodies("lab/plain")
    assert "authorization" not in body.headers
    asked = hub.requests("lab/plain", "HEAD")
    assert all(request.headers["authorization"] == "Bearer hf_lab" for request in asked)
    assert "reidzoo/" in asked[0].headers["user-agent"]
    # The .safetensors was asked for once: what is in the cache goes first from then on.
    assert [request.path.rsplit("/", 1)[1] for request in asked] == [FILE, "GhostNet_0_5.pth", "GhostNet_0_5.pth"]


def test_safetensors_goes_before_the_official_file(hub, client, tmp_path):
    hub.add("lab/both", {"GhostNet_0_5.pth": content(11), FILE: content(12)})
    assert client(DOWNLOAD, repo="lab/both", cache=str(tmp_path))["result"]["name"] == FILE


def test_revisions(hub, client, tmp_path):
    """A new commit is a new download; a pinned commit, tag or branch stays what it was."""
    repo = hub.add("lab/moves", {FILE: content(13)})
    first = repo.refs["main"]
    repo.refs["v1"] = first

    def load(name: str) -> str:
        return client(DOWNLOAD, repo=name, cache=str(tmp_path))["result"]["sha256"]

    assert load("lab/moves") == digest(content(13))
    repo.commit({FILE: content(14)})
    assert load("lab/moves") == digest(content(14))
    assert load(f"lab/moves@{first}") == load("lab/moves@v1") == digest(content(13))
    assert len(hub.bodies("lab/moves")) == 2


def test_a_cut_download_goes_on_where_it_was_cut(hub, client, tmp_path):
    data = content(15, LARGE)
    hub.add("lab/cut", {FILE: data}).faults.cuts = [11 << 20]
    answer = client(DOWNLOAD, repo="lab/cut", cache=str(tmp_path))
    if "error" in answer:  # huggingface_hub before 1.0 goes on in the next call, later ones by themselves
        assert "Type the same again" in answer["message"]
        answer = client(DOWNLOAD, repo="lab/cut", cache=str(tmp_path))
    assert answer["result"]["sha256"] == digest(data)
    first, second = hub.bodies("lab/cut")
    assert "range" not in first.headers
    start = int(re.fullmatch(r"bytes=(\d+)-", second.headers["range"])[1])
    assert 0 < start <= 11 << 20


def test_without_network_after_a_download(hub, client, new_client, tmp_path):
    """What was loaded once loads in offline mode and with a hub that is gone; what was not says so."""
    hub.add("lab/kept", {"GhostNet_0_5.pth": content(16)})
    loaded = client(DOWNLOAD, repo="lab/kept", cache=str(tmp_path))["result"]
    offline, gone = new_client(HF_HUB_OFFLINE="1"), new_client("http://127.0.0.1:9")
    before = len(hub.requests("lab/kept", "HEAD"))
    for process in (offline, gone):
        assert process(DOWNLOAD, repo="lab/kept", cache=str(tmp_path)).get("result") == loaded
    answer = offline(DOWNLOAD, repo="lab/never", cache=str(tmp_path))
    assert answer["error"] == "HubAccessError"
    assert "Offline mode is on" in answer["message"]
    assert "unset HF_HUB_OFFLINE" in answer["message"]
    assert len(hub.requests("lab/kept", "HEAD")) == before


# -- what goes wrong


@pytest.mark.parametrize(
    ("settings", "token", "words"),
    [
        ({"gated": "manual"}, "", ["is gated", "not logged in", "hf auth login"]),
        ({"private": True}, "", ["is private, gated or not there", "not logged in", "hf auth login"]),
        (None, "", ["is private, gated or not there", "hf auth login"]),
        (None, "hf_none", ["There is no repository", "your account may not see it", "hf auth whoami"]),
        ({"private": True}, "hf_none", ["There is no repository", "your account may not see it"]),
        ({}, "hf_expired", ["does not accept your token", "settings/tokens"]),
        ({"gated": "manual"}, "hf_none", ["has not been given access", "Ask for it on that page"]),
        ({"gated": "manual"}, "hf_pending", ["waits for its owners", "settings/gated-repos"]),
        ({"gated": "manual"}, "hf_refused", ["have rejected your request"]),
        ({"gated": "auto"}, "hf_fine-grained", ["token may not read gated", "settings/tokens"]),
        ({"disabled": True}, "hf_none", ["has been disabled"]),
    ],
    ids=lambda v: str(v) if not isinstance(v, list) else "",
)
def test_refusals(settings, token, words, hub, client, tmp_path):
    name = f"lab/refusal-{next(count)}"
    if settings is not None:
        repo = hub.add(name, {FILE: content(20)}, **settings)
        repo.access |= {"pending": "pending", "refused": "refused", "fine-grained": "fine-grained"}
    answer = client(DOWNLOAD, repo=name, cache=str(tmp_path), token=token)
    assert answer["error"] == "HubAccessError", answer
    assert "OSError" in answer["kinds"]
    for word in [*words, f"{hub.url}/{name} (the hub of HF_ENDPOINT)"]:
        assert word in answer["message"]
    assert not token or token not in answer["trace"]
    assert not hub.bodies(name)


def test_a_member_of_a_gated_repository_reads_it(hub, client, tmp_path):
    hub.add("lab/gated", {FILE: content(21)}, gated="manual", access={"member": "member"})
    assert client(DOWNLOAD, repo="lab/gated", cache=str(tmp_path), token="hf_member")["result"]["name"] == FILE


def test_no_such_revision_and_no_such_file(hub, client, tmp_path):
    hub.add("lab/other", {"resnet50.safetensors": content(22)})
    answer = client(DOWNLOAD, repo="lab/other@v9", cache=str(tmp_path))
    assert answer["error"] == "HubAccessError"
    assert "has no revision 'v9'" in answer["message"]
    answer = client(DOWNLOAD, repo="lab/other", cache=str(tmp_path))
    assert answer["error"] == "WeightsNotFoundError"
    assert f"has no {FILE} and no GhostNet_0_5.pth" in answer["message"]
    answer = client(
        "from reidzoo.weights.hub import download_model; download_model('lab/other', cache)", cache=str(tmp_path)
    )
    assert "has no model.safetensors" in answer["message"]


def test_no_repository_configured(client):
    code = "import reidzoo; from reidzoo.weights import hub; hub.set_hub_repo(None)\n"
    answer = client(code + "hub.download(reidzoo.model_info('vit_tiny'))")
    assert answer["error"] == "WeightsNotFoundError"
    assert "export REIDZOO_HUB_REPO=owner/name" in answer["message"]


def test_wrong_bytes_are_removed(hub, client, tmp_path):
    """The sizes agree, so that huggingface_hub is content; the next load gets the right ones."""
    repo = hub.add("lab/damaged", {FILE: content(23)})
    repo.faults.wrong_bytes = True
    for _ in range(2):  # a bad file that stayed would pass for good the second time
        answer = client(DOWNLOAD, repo="lab/damaged", cache=str(tmp_path))
        assert answer["error"] == "CheckpointError"
        assert "arrived damaged" in answer["message"]
        assert digest(content(23)) in answer["message"]
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.stat().st_size == 50_000]
    repo.faults.wrong_bytes = False
    assert client(DOWNLOAD, repo="lab/damaged", cache=str(tmp_path))["result"]["sha256"] == digest(content(23))


def test_a_file_that_ends_early(hub, client, tmp_path):
    hub.add("lab/short", {FILE: content(24)}).faults.short = True
    answer = client(DOWNLOAD, repo="lab/short", cache=str(tmp_path))
    assert answer["error"] == "HubAccessError"
    assert "broke off at ghostnet_0_5.safetensors" in answer["message"]
    assert "50000" in answer["message"]
    assert "25000" in answer["message"]


def test_a_cache_that_cannot_be_written(hub, client, tmp_path):
    hub.add("lab/nowrite", {FILE: content(25)})
    (tmp_path / "file").touch()
    answer = client(DOWNLOAD, repo="lab/nowrite", cache=str(tmp_path / "file"))
    assert answer["error"] == "StoreError"
    assert "HF_HOME" in answer["message"]


# -- what takes long (see `slow`), last


def test_a_slow_download_arrives(slow):
    assert slow("drips")["result"]["sha256"] == digest(content(4))


def test_a_download_that_stalls_is_asked_for_again(slow, hub):
    assert slow("stalls")["result"]["sha256"] == digest(content(3))
    assert len(hub.bodies("slow/stalls")) == 2


def test_a_connection_that_keeps_breaking(slow):
    answer = slow("cuts")
    assert answer["error"] == "HubAccessError", answer
    assert "broke off at ghostnet_0_5.safetensors" in answer["message"]
    assert "Type the same again" in answer["message"]


def test_a_hub_that_is_down(slow):
    answer = slow("errors")
    assert answer["error"] == "HubAccessError"
    assert "answers with an error of its own: 503 (The server is on fire" in answer["message"]
    answer = slow("busy")
    assert answer["error"] == "HubAccessError"
    assert "too many requests" in answer["message"]


def test_no_network(slow):
    answer = slow("nowhere")
    assert answer["error"] == "HubAccessError"
    assert "http://127.0.0.1:9/lab/unknown (the hub of HF_ENDPOINT) cannot be reached" in answer["message"]
    assert "HTTPS_PROXY" in answer["message"]
