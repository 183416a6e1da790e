#!/usr/bin/env bash
# moto 5.2.5: an object whose bytes differ from the sums sent with it is stored.
#
# Expected: a PUT whose Content-MD5, SHA-256 or CRC-32 is that of other bytes is refused (BadDigest), as S3 refuses it.
# Observed: each is answered with 200, and the bytes are kept. So a test against moto does not show that the sums that a tool sends
# with a checkpoint are right, or that it notices a refusal. Conditions (If-None-Match) do hold. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'moto[server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON'
import base64, hashlib, http.client, zlib
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
address = server.get_host_and_port()
SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=b"

def ask(method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(*address)
    connection.request(method, path, body, {"Authorization": SIGNED, **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content

assert ask("PUT", "/bucket")[0] == 200
sent, other = b"the weights", b"other bytes"
encoded = lambda sum: base64.b64encode(sum).decode()
sums = {"Content-MD5": encoded(hashlib.md5(other).digest()), "x-amz-checksum-sha256": encoded(hashlib.sha256(other).digest()),
        "x-amz-checksum-crc32": encoded(zlib.crc32(other).to_bytes(4, "big"))}
stored = {}
for name, wrong in sums.items():
    status, _ = ask("PUT", f"/bucket/{name}", sent, {name: wrong})
    _, content = ask("GET", f"/bucket/{name}")
    stored[name] = status == 200 and content == sent
    print(f"{name} of other bytes: {status}; read back: {content}")
refused = ask("PUT", "/bucket/Content-MD5", sent, {"If-None-Match": "*"})[0]
print("If-None-Match on an object that exists:", refused)
server.stop()
assert refused == 412
if not all(stored.values()):
    raise SystemExit("changed: a wrong sum is refused now")
PYTHON
