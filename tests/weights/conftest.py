"""A hub on localhost, and processes that use it as users do."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def _module(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Client:
    """A Python process with huggingface_hub set to a hub; every call runs some code in it.

    ``client(code, token=...)`` gives the answer of `hub_client`; `start` and `wait` do the same for slow code.
    """

    def __init__(self, python: str, folder: Path, endpoint: str, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "REIDZOO_"))}
        clean |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")}
        # The server speaks plain HTTP; hf_xet would ask for its own storage.
        clean |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        clean |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "*", **env}
        self.folder = folder
        self.stderr = folder / "stderr"
        self.process = subprocess.Popen(
            [python, str(HERE / "hub_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr.open("w"),
            text=True,
            env=clean,
        )
        self.answers: dict[int, dict[str, Any]] = {}
        self.asked = 0

    def start(self, code: str, *, token: str = "", **values: object) -> int:
        """Run `code` with this token, the `values` as names, and a home where no licence has been accepted."""
        self.asked += 1
        env = {"HF_TOKEN": token, "REIDZOO_HOME": str(self.folder / f"home-{self.asked}")}
        env |= {"REIDZOO_HUB_REPO": "", "REIDZOO_ACCEPT_LICENSE": ""}
        lines = ["import os", f"os.environ.update({env!r})"]
        lines += [f"{name} = {value!r}" for name, value in values.items()]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"id": self.asked, "code": "\n".join([*lines, code])}) + "\n")
        self.process.stdin.flush()
        return self.asked

    def wait(self, number: int) -> dict[str, Any]:
        assert self.process.stdout is not None
        while number not in self.answers:
            line = self.process.stdout.readline()
            assert line, self.stderr.read_text()
            answer = json.loads(line)
            self.answers[answer["id"]] = answer
        return self.answers.pop(number)

    def __call__(self, code: str, **settings: Any) -> dict[str, Any]:
        return self.wait(self.start(code, **settings))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def hub() -> Iterator[Any]:
    """A `hub_server.Hub`."""
    with _module("hub_server").Hub() as hub:
        hub.tokens |= {f"hf_{user}": user for user in ("lab", "none", "pending", "refused", "fine-grained", "member")}
        yield hub


@pytest.fixture(scope="session")
def new_client(hub: Any, tmp_path_factory: pytest.TempPathFactory, warm_python: str) -> Iterator[Callable[..., Client]]:
    """new_client(endpoint=the hub's, **environment): a `Client` that ends with the session."""
    clients = []

    def new_client(endpoint: str = hub.url, **env: str) -> Client:
        clients.append(Client(warm_python, tmp_path_factory.mktemp("client"), endpoint, **env))
        return clients[-1]

    yield new_client
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def client(new_client: Callable[..., Client]) -> Client:
    """A process on the hub."""
    return new_client()
