"""A small server on localhost that answers huggingface_hub's client as the hub does.

Repositories, among them private, gated and disabled ones; tokens, and who may read what; commits, branches and tags;
large files behind a redirect to another host, as on the hub's CDN; uploads. And what networks do: cuts, stalls, errors,
wrong bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pth", ".bin")
RESTRICTED = "Access to model {} is restricted"
DENIED = {  # what the hub says in X-Error-Message to somebody who is logged in
    "none": RESTRICTED + " and you are not in the authorized list. Visit https://huggingface.co/{} to ask for access.",
    "pending": "Your request to access model {} is awaiting a review from the repo authors.",
    "refused": "Your request to access model {} has been rejected by the repo's authors.",
    "fine-grained": "Please enable access to public gated repositories in your fine-grained token settings to view "
    "this repository.",
}


@dataclass
class Faults:
    """What goes wrong with one repository. Lists are used up, one entry per download."""

    cuts: list[int] = field(default_factory=list)  # bytes to send, then drop the connection
    stalls: list[int] = field(default_factory=list)  # bytes to send, then say nothing more
    always_cut: bool = False  # before the first byte
    short: bool = False  # serve half of the file as if it were all
    wrong_bytes: bool = False
    pause: float = 0.0  # seconds between the pieces of a download
    status: int | None = None  # answer everything with this


@dataclass
class Repo:
    """A repository: files by commit, commits by branch or tag, and who may do what."""

    name: str
    owner: str
    private: bool = False
    gated: bool | str = False
    disabled: bool = False
    access: dict[str, str] = field(default_factory=dict)  # user -> "member" or a key of DENIED
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        files = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        return oid


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    headers: dict[str, str]


class Hub:
    """The server. Start it with ``with Hub() as hub:``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.log: list[Request] = []

        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"  # another origin: a client must not send its token there

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes] | None = None, **settings: object) -> Repo:
        repo = self.repos[name] = Repo(name, name.partition("/")[0], **settings)  # type: ignore[arg-type]
        if files is not None:
            repo.commit(files)
        return repo

    def requests(self, repo: str, method: str, part: str = "") -> list[Request]:
        return [r for r in self.log if r.method == method and f"{repo}" in r.path and part in r.path]

    def bodies(self, repo: str) -> list[Request]:
        """Downloads of large files."""
        return self.requests(repo, "GET", "/cdn/")


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.log.append(Request(self.command, path, headers))
        try:
            self.route(path, headers, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def route(self, path: str, headers: dict[str, str], body: bytes) -> None:
        routes = (
            (r"/cdn/(?P<name>[^/]+/[^/]+)/(?P<key>.+)", self.content),
            (r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", self.resolve),
            (r"/api/models/(?P<name>[^/]+/[^/]+)", self.info),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<rev>.+)", self.info),
            (r"/api/repos/create", self.create),
            (r"/api/validate-yaml", lambda **_: self.json(200, {"warnings": [], "errors": []})),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<rev>.+)", self.preupload),
            (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"/upload/(?P<name>[^/]+/[^/]+)/(?P<oid>\w+)", self.upload),
            (r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<rev>.+)", self.commit),
        )
        token = headers.get("authorization", "").removeprefix("Bearer ")
        self.user, self.body = self.hub.tokens.get(token), body
        for pattern, function in routes:
            if match := re.fullmatch(pattern, path):
                repo = self.hub.repos.get(match.groupdict().get("name", ""))
                if repo is not None and repo.faults.status is not None:
                    return self.error(repo.faults.status, message="The server is on fire")
                if token and self.user is None and not path.startswith(("/cdn", "/upload")):
                    return self.error(401, message="Invalid credentials in Authorization header")
                return function(**match.groupdict())
        return self.error(404, message=f"no route {path}")

    # -- answers

    def send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, status: int, value: object) -> None:
        self.send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def error(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self.send(status, {**headers, "X-Error-Message": message, "Content-Type": "application/json"}, body)

    def may_see(self, name: str) -> Repo | None:
        """The repository, or an answer that does not tell private from missing, as on the hub."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.user != repo.owner and repo.access.get(str(self.user)) != "member"):
            if self.user is None:
                self.error(401, message="Invalid username or password.")
            else:
                self.error(404, "RepoNotFound", "Repository not found")
            return None
        if repo.disabled:
            self.error(403, message="Access to this resource is disabled.")
            return None
        return repo

    # -- reading

    def resolve(self, name: str, rev: str, file: str) -> None:
        repo = self.may_see(name)
        if repo is None:
            return None
        access = "member" if self.user == repo.owner else repo.access.get(str(self.user), "none")
        if repo.gated and access != "member":
            if self.user is None:
                said = RESTRICTED + ". You must have access to it and be authenticated to access it. Please log in."
                return self.error(401, "GatedRepo", said.format(name))
            return self.error(403, "GatedRepo", DENIED[access].format(name, name))
        oid = repo.refs.get(rev, rev)
        if oid not in repo.commits:
            return self.error(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        content = repo.commits[oid].get(file)
        if content is None:
            headers = {"X-Repo-Commit": oid, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.send(404, headers, b"Entry not found")
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if not file.endswith(LARGE):
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.send(200, {**headers, "ETag": f'"{etag}"', "Content-Length": str(len(content))}, content)
        sha = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(content)), "ETag": f'"{sha[:32]}"'}
        return self.send(302, {**headers, "Location": f"{self.hub.cdn}/{name}/{oid}/{file}"})

    def content(self, name: str, key: str) -> None:
        """Bytes of a large file, from where the Range header says."""
        repo = self.hub.repos[name]
        oid, _, file = key.partition("/")
        content, faults = repo.commits[oid][file], repo.faults
        if faults.wrong_bytes:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if faults.short:
            content = content[: len(content) // 2]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if faults.always_cut or faults.cuts or faults.stalls:
            wait = 0 if faults.always_cut or faults.cuts else 30
            part = 0 if faults.always_cut else (faults.cuts or faults.stalls).pop(0)
            self.wfile.write(content[start : start + part])
            self.wfile.flush()
            time.sleep(wait)
            self.close_connection = True
            return
        step = max(1, len(content) // 8) if faults.pause else len(content) or 1
        for i in range(start, len(content), step):
            self.wfile.write(content[i : i + step])
            self.wfile.flush()
            time.sleep(faults.pause)

    def info(self, name: str, rev: str = "main") -> None:
        repo = self.may_see(name)
        if repo is not None:
            oid = repo.refs.get(rev, rev)
            files = [{"rfilename": file} for file in repo.commits.get(oid, {})]
            state = {"private": repo.private, "gated": repo.gated, "disabled": repo.disabled}
            self.json(200, {"id": name, "modelId": name, "sha": oid, "siblings": files, **state})

    # -- writing

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if self.user is None:
            return self.error(401, message="Invalid username or password.")
        if self.user != wanted["organization"]:
            return self.error(
                403, message=f"You don't have the rights to create a model under {wanted['organization']}"
            )
        if name in self.hub.repos:
            return self.json(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        repo = self.hub.add(name, {".gitattributes": b""}, private=_asked_private(wanted))
        if repo.name.endswith("-opened"):  # as if its owner's other hand had made it public at once
            repo.private = False
        return self.json(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def writable(self, name: str) -> Repo | None:
        repo = self.may_see(name)
        if repo is not None and self.user != repo.owner:
            self.error(403, message="Authorization error.")
            return None
        return repo

    def preupload(self, name: str, rev: str) -> None:
        if self.writable(name):
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in json.loads(self.body)["files"]
            ]
            self.json(200, {"files": files})

    def batch(self, name: str) -> None:
        if self.writable(name):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/upload/{name}/{o['oid']}"}}}
                for o in json.loads(self.body)["objects"]
            ]
            self.json(200, {"transfer": "basic", "objects": objects})

    def upload(self, name: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, message="hash mismatch")
        self.hub.uploads[oid] = self.body
        return self.send(200, {"ETag": f'"{oid}"'})

    def commit(self, name: str, rev: str) -> None:
        repo = self.writable(name)
        if repo is None:
            return
        files: dict[str, bytes] = {}
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
        oid = repo.commit(files, rev)
        url = f"{self.hub.url}/{name}/commit/{oid}"
        self.json(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})


def _asked_private(wanted: dict[str, object]) -> bool:
    """huggingface_hub has said it in two ways."""
    return wanted.get("visibility") == "private" or bool(wanted.get("private"))
