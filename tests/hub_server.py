"""A stand-in of the hub: as much of its HTTP interface as `huggingface_hub` calls.

Repositories are lists of commits, each the files by path. Files of safetensors go by
the protocol of Git LFS, others into the commit itself.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKEN = "hf_of_the_tests"


class Hub(ThreadingHTTPServer):
    """The server; `repos` has the commits of each repository, `requests` all paths."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.cards: list[dict] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo, files) -> str:
        """Add files to a repository, as its next commit."""
        commits = self.repos.setdefault(repo, [])
        files = {**(commits[-1][1] if commits else {}), **files}
        files = {
            path: content for path, content in files.items() if content is not None
        }
        about = f"{repo} {len(commits)}".encode() + b"".join(files.values())
        commits.append((hashlib.sha1(about).hexdigest(), files))
        return commits[-1][0]

    def find(self, repo, revision):
        """The commit that a revision names, and its files."""
        commits = self.repos[repo]
        if revision in (None, "main"):
            return commits[-1] if commits else ("0" * 40, {})
        return next(each for each in commits if each[0] == revision)


@contextlib.contextmanager
def serving():
    """The stand-in while it runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub  # pyright: ignore

    def log_message(self, *_):  # pyright: ignore
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_PUT(self):
        self._answer()

    def _answer(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, action in _ROUTES:
            if found := re.fullmatch(pattern, path):
                try:
                    return action(self, body, *found.groups())
                except KeyError:
                    return self._fail(404, "RepoNotFound")
                except StopIteration:
                    return self._fail(404, "RevisionNotFound")
        return self._fail(501, f"nothing for {self.command} {path}")

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def _fail(self, status, code):
        self._send(status, b"{}", X_Error_Code=code, X_Error_Message=code)

    def _may_write(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._fail(401, "")
        return False

    def create(self, body):
        if self._may_write():
            about = json.loads(body)
            repo = f"{about['organization']}/{about['name']}"
            if repo in self.server.repos:
                content = json.dumps({"url": f"{self.server.endpoint}/{repo}"}).encode()
                self._send(409, content)
            else:
                self.server.repos[repo] = []
                self._json({"url": f"{self.server.endpoint}/{repo}"})

    def validate(self, body):
        text = json.loads(body)["content"].split("---\n")[1]
        self.server.cards.append(yaml.safe_load(text))
        self._json({"errors": [], "warnings": []})

    def preupload(self, body, repo, revision):
        self.server.find(repo, revision)
        if self._may_write():
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if "safetensors" in file["path"] else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})

    def batch(self, body, repo):
        if self._may_write():
            objects = [
                {
                    **each,
                    "actions": {
                        "upload": {"href": f"{self.server.endpoint}/lfs/{each['oid']}"}
                    },
                }
                for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})

    def upload(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self._send(200, b"")

    def commit(self, body, repo, revision):
        self.server.find(repo, revision)
        if self._may_write():
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    files[value["path"]] = None
            oid = self.server.commit(repo, files)
            url = f"{self.server.endpoint}/{repo}/commit/{oid}"
            self._json({"commitUrl": url, "commitOid": oid})

    def info(self, body, repo, revision=None):
        oid, files = self.server.find(repo, revision)
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": repo, "sha": oid, "siblings": siblings, "tags": []})

    def tree(self, body, repo, revision):
        _, files = self.server.find(repo, revision)
        self._json(
            [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for path, content in files.items()
            ]
        )

    def resolve(self, body, repo, revision, path):
        oid, files = self.server.find(repo, revision)
        content = files[path]
        tag = hashlib.sha256(content).hexdigest()
        self._send(200, content, X_Repo_Commit=oid, ETag=f'"{tag}"')


_NAME = r"([^/]+/[^/]+)"
_ROUTES = [
    ("/api/repos/create", _Handler.create),
    ("/api/validate-yaml", _Handler.validate),
    (f"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    (f"/{_NAME}.git/info/lfs/objects/batch", _Handler.batch),
    ("/lfs/(.+)", _Handler.upload),
    (f"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    (f"/api/models/{_NAME}/tree/([^/]+)", _Handler.tree),
    (f"/api/models/{_NAME}/revision/(.+)", _Handler.info),
    (f"/api/models/{_NAME}", _Handler.info),
    (f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
