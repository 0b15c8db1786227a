"""A Hub for tests on 127.0.0.1: what the real client asks of it to create, fill and read a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_canary0123456789abcdefghijklmn"
LFS_FROM = 10_000  # bytes


@dataclass
class Repository:
    private: bool = False
    kind: str = "model"
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    commits: list[str] = field(default_factory=list)


class LoopbackHub(ThreadingHTTPServer):
    """State of the Hub; ``fail_uploads`` answers so many LFS uploads with 500 before it recovers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.refuse_uploads = False
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content if content is not None else {}).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, {"error": code}, {"X-Error-Code": code})

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def repository(self, name: str) -> Repository | None:
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.known()):
            self.refuse(404 if self.known() else 401, "RepoNotFound")
            return None
        return found

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        with self.server.lock:
            self.post(unquote(urlsplit(self.path).path).strip("/").split("/"), self.body())

    def post(self, parts: list[str], body: bytes) -> None:
        if not self.known():
            self.refuse(401, "Unauthorized")
        elif parts == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            exists = name in self.server.repositories
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.server.repositories.setdefault(name, Repository(private, wanted.get("type") or "model"))
            self.answer(409 if exists else 200, {"url": f"{self.server.url}/{name}", "error": "exists"})
        elif parts == ["api", "validate-yaml"]:
            self.answer(200, {"errors": [], "warnings": []})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self.answer(200, {"objects": [self.lfs_action(entry) for entry in json.loads(body)["objects"]]})
        elif parts[0] == "lfs-verify":
            self.answer(200 if parts[1] in self.server.objects else 404)
        elif (repository := self.repository("/".join(parts[2:4]))) is not None:
            action, revision = parts[4], parts[5]
            if action == "preupload":
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["size"] > LFS_FROM else "regular",
                        "shouldIgnore": False,
                    }
                    for f in json.loads(body)["files"]
                ]
                self.answer(200, {"files": files})
            elif action == "commit":
                self.commit(repository, revision, body)

    def lfs_action(self, entry: dict[str, Any]) -> dict[str, Any]:
        oid = entry["oid"]
        if oid in self.server.objects:
            return entry
        upload = {"href": f"{self.server.url}/lfs-put/{oid}"}
        return {**entry, "actions": {"upload": upload, "verify": {"href": f"{self.server.url}/lfs-verify/{oid}"}}}

    def commit(self, repository: Repository, revision: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        head = repository.branches.get(revision)
        if head is None:
            self.refuse(404, "RevisionNotFound")
            return
        if (lines[0]["value"].get("parentCommit") or head) != head:
            self.refuse(412, "PreconditionFailed")
            return
        files = dict(repository.files[head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        repository.files[commit] = files
        pull = "create_pr" in parse_qs(urlsplit(self.path).query)
        repository.branches["refs/pr/1" if pull else revision] = commit
        repository.commits.append(commit)
        name = next(name for name, found in self.server.repositories.items() if found is repository)
        reply: dict[str, Any] = {
            "success": True,
            "commitOid": commit,
            "commitUrl": f"{self.server.url}/{name}/commit/{commit}",
        }
        self.answer(200, {**reply, **({"pullRequestUrl": f"{self.server.url}/{name}/discussions/1"} if pull else {})})

    def do_PUT(self) -> None:
        content, oid = self.body(), self.path.rsplit("/", 1)[-1]
        with self.server.lock:
            if self.server.refuse_uploads and self.server.uploads:
                self.answer(400, {"error": "no space"})
                return
            self.server.uploads.append(oid)
            matches = hashlib.sha256(content).hexdigest() == oid
            if matches:
                self.server.objects[oid] = content
        self.answer(200 if matches else 400)

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            repository = self.repository("/".join(parts[2:4]))
            if repository is None:
                return
            revision = "/".join(parts[5:]) or "main"
            commit = repository.branches.get(revision, revision)
            if commit not in repository.files:
                self.refuse(404, "RevisionNotFound")
                return
            files = repository.files[commit]
            if parts[4:5] == ["tree"]:
                entries = [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                ]
                self.answer(200, entries)
                return
            siblings = [{"rfilename": path} for path in files]
            self.answer(200, {"id": "/".join(parts[2:4]), "sha": commit, "siblings": siblings, "tags": []})
            return
        parts = parts[1:] if parts[0] == "spaces" else parts
        repository = self.repository("/".join(parts[:2]))
        if repository is None:
            return
        commit = repository.branches.get(parts[3], parts[3])
        content = repository.files.get(commit, {}).get("/".join(parts[4:]))
        if content is None:
            self.refuse(404, "EntryNotFound")
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(200, content, {"X-Repo-Commit": commit, "ETag": etag})

    do_HEAD = do_GET  # noqa: N815  # the base class's spelling
