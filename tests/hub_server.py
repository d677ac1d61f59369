"""A server that speaks the hub's API as far as huggingface_hub needs it for models.

A client reads HF_ENDPOINT and others when it is imported: `use_hub` sets what it made of them.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"
MAIN = "main"


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)

    def commit(self, files, branch=MAIN):
        whole = self.commits.get(self.branches.get(branch, ""), {}) | files
        digest = hashlib.sha1(repr(sorted(whole.items())).encode())
        self.branches[branch] = digest.hexdigest()
        self.commits[self.branches[branch]] = whole
        return self.branches[branch]

    def find(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Hub:
    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def add(self, name, files, **about):
        self.repositories[name] = Repository(**about)
        self.repositories[name].commit(files)
        return self.repositories[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content-Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer({"error": code}, status, X_Error_Code=code)

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def may_write(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repository(self, name):
        """Return a repository that may be read, or answer and return None."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.may_write()):
            return self.refuse(404, "RepoNotFound")
        if found.gated and not self.may_write():
            return self.refuse(403, "GatedRepo")
        return found

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(revision|tree)/(.+))?", path):
            self.describe(match[1], match[3], match[4] or MAIN)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.send_file(*match.groups())
        else:
            self.refuse(404, "EntryNotFound")

    do_HEAD = do_GET

    def describe(self, name, what, revision):
        if (repository := self.repository(name)) is None:
            return
        if (commit := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if what == "tree":
            return self.answer([self.entry(repository, *item) for item in files.items()])
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name, "modelId": name, "sha": commit, "private": repository.private}
        self.answer(about | {"siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def entry(self, repository, path, content):
        oid = hashlib.sha256(content).hexdigest()
        size = len(content)
        large = {"lfs": {"oid": oid, "size": size, "pointerSize": 130}}
        plain = {"type": "file", "path": path, "size": size, "oid": oid[:40]}
        return plain | (large if oid in repository.stored else {})

    def send_file(self, name, revision, path):
        if (repository := self.repository(name)) is None:
            return
        commit = repository.find(revision)
        content = repository.commits.get(commit or "", {}).get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"X_Repo_Commit": commit, "ETag": tag, "Accept_Ranges": "bytes"}
        self.answer(content, Content_Type="application/octet-stream", **headers)

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.uploads[oid] = content
        self.answer()

    def do_POST(self):
        path, body = unquote(urlsplit(self.path).path), self.body()
        self.hub.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if not self.may_write():
            return self.answer({"error": "no right"}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path)
        if match:
            if (repository := self.repository(match[1])) is not None:
                getattr(self, match[2])(repository, match[3], body, match[1])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            upload = {o["oid"]: {"href": f"{self.hub.address}/upload/{o['oid']}"} for o in objects}
            whole = [o | {"actions": {"upload": upload[o["oid"]]}} for o in objects]
            self.answer({"transfer": "basic", "objects": whole})
        else:
            self.refuse(404, "EntryNotFound")

    def create(self, asked):
        name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return self.answer(url | {"error": "You already created this model repo"}, 409)
        self.hub.add(
            name,
            {".gitattributes": b""},
            private=asked.get("visibility") == "private" or bool(asked.get("private")),
        )
        self.answer(url)

    def branch(self, repository, branch, body, name):
        if branch in repository.branches:
            return self.answer({"error": "Reference already exists"}, 409)
        repository.branches[branch] = repository.branches[MAIN]
        self.answer()

    def preupload(self, repository, revision, body, name):
        files = json.loads(body)["files"]
        modes = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for one in files
        ]
        self.answer({"files": modes})

    def commit(self, repository, revision, body, name):
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
                repository.stored.add(value["oid"])
        commit = repository.commit(files, revision)
        url = f"{self.hub.address}/{name}/commit/{commit}"
        self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


def use_hub(monkeypatch, home, address, *, token=None, offline=False):
    """Let huggingface_hub in this process talk to a server, with a cache of its own."""
    from huggingface_hub import constants

    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)


@contextmanager
def hub_server() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
