#!/usr/bin/env bash
# huggingface_hub 2.4.0: a download whose bytes differ from the SHA-256 that names it is kept.
#
# Expected: a file of the cache whose name is the SHA-256 of its content has that content; a download that differs is
# refused.
# Observed: over plain HTTP only the length is compared. A server (or a proxy before it) that answers with other bytes of
# the same length fills the cache under the digest of the right ones, without an error, for every later reader. The
# script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0
cd "$folder"
HF_HOME=$folder/home HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 HF_HUB_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PYTHON'
import hashlib, http.server, os, threading
right, wrong = b"r" * 5000, b"w" * 5000
digest, commit = hashlib.sha256(right).hexdigest(), "a" * 40

class Hub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        for name, value in [("X-Repo-Commit", commit), ("ETag", '"none"'), ("X-Linked-Etag", f'"{digest}"'),
                            ("X-Linked-Size", "5000"), ("Content-Length", "5000")]:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(wrong)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
import huggingface_hub
path = huggingface_hub.hf_hub_download("org/small", "model.safetensors")
name, found = os.path.basename(os.path.realpath(path)), hashlib.sha256(open(path, "rb").read()).hexdigest()
print("name in the cache:", name[:16], "content:", found[:16])
assert name == digest and found == hashlib.sha256(wrong).hexdigest()
PYTHON
