"""A hub for tests and measurements: the routes of huggingface.co that clients need, over local folders, on the loopback.

    python3 scripts/hub_server.py FOLDER [PORT]     serves FOLDER/ORG/NAME/REVISION/..., prints its address

Large files are redirected to a second address, as the hub redirects to its content network. No token is checked.
"""

import hashlib
import http.server
import json
import os
import socket
import sys
import threading
import urllib.parse
from pathlib import Path

LARGE_BYTES = 1_000


def git_digest(path):
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.digests = {}
        self.content = None

    def large_digest(self, path):
        if path not in self.digests:
            with path.open("rb") as file:
                self.digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self.digests[path]

    def revisions(self, repository):
        names = sorted(path.name for path in (self.folder / repository).iterdir())
        return {name: hashlib.sha1(f"{repository} {name}".encode()).hexdigest() for name in names}

    def find(self, repository, revision):
        """The folder and the commit of a revision."""
        for name, commit in self.revisions(repository).items():
            if revision in (name, commit):
                return self.folder / repository / name, commit
        return None, None

    def entries(self, folder):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            entry = {"type": "file", "path": str(path.relative_to(folder)), "size": size}
            if size < LARGE_BYTES:
                yield {**entry, "oid": git_digest(path)}
            else:
                digest = self.large_digest(path)
                yield {**entry, "oid": digest[:40], "lfs": {"oid": digest, "size": size, "pointerSize": 130}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *_):
        pass

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value):
        self.answer(200, [("Content-Type", "application/json")], json.dumps(value).encode())

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = [urllib.parse.unquote(part) for part in self.path.split("?")[0].strip("/").split("/")]
        hub = self.hub
        match parts:
            case ["content", org, name, revision, *path]:
                self.file(hub.folder / org / name / revision / "/".join(path), [])
            case ["api", "models", org, name, *rest] if (hub.folder / org / name).is_dir():
                repository = f"{org}/{name}"
                match rest:
                    case ["refs"]:
                        branches = [
                            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                            for name, commit in hub.revisions(repository).items()
                        ]
                        self.json({"branches": branches, "converts": [], "tags": []})
                    case ["tree" | "revision" as what, revision]:
                        folder, commit = hub.find(repository, revision)
                        if folder is None:
                            self.answer(404, [("X-Error-Code", "RevisionNotFound")])
                        elif what == "tree":
                            self.json(list(hub.entries(folder)))
                        else:
                            siblings = [{"rfilename": entry["path"]} for entry in hub.entries(folder)]
                            self.json({"id": repository, "sha": commit, "siblings": siblings})
                    case _:
                        self.answer(404)
            case [org, name, "resolve", revision, *path]:
                folder, commit = hub.find(f"{org}/{name}", revision)
                file = folder and folder / "/".join(path)
                if not file or not file.is_file():
                    self.answer(404, [("X-Error-Code", "EntryNotFound")])
                    return
                about = [("X-Repo-Commit", commit)]
                size = file.stat().st_size
                if size < LARGE_BYTES:
                    self.file(file, [*about, ("ETag", f'"{git_digest(file)}"')])
                    return
                about += [("X-Linked-Etag", f'"{hub.large_digest(file)}"'), ("X-Linked-Size", str(size))]
                place = urllib.parse.quote(str(file.relative_to(hub.folder)))
                self.answer(302, [*about, ("Location", f"{hub.content}/content/{place}")])
            case _:
                self.answer(401, [("X-Error-Code", "RepoNotFound")])

    def file(self, path, headers):
        size = path.stat().st_size
        first = 0
        asked = self.headers.get("Range")
        if asked:
            first = int(asked.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        else:
            self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.flush()
        with path.open("rb") as file:
            try:
                while first < size:
                    first += os.sendfile(self.connection.fileno(), file.fileno(), first, 1 << 20)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True


def start(folder, port=0):
    """Starts a hub and its content network, as threads; returns the address of the hub."""
    handler = type("HubHandler", (Handler,), {"hub": Hub(folder)})
    addresses = []
    for number in (port, 0):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", number), handler)
        server.daemon_threads = True
        server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        addresses.append(f"http://127.0.0.1:{server.server_port}")
    handler.hub.content = addresses[1]
    return addresses[0]


if __name__ == "__main__":
    print(start(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0), flush=True)
    threading.Event().wait()
