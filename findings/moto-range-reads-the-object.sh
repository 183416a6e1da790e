#!/usr/bin/env bash
# moto 5.2.5: each ranged GET reads and copies the whole object.
#
# Expected: a range of one byte costs about the same whatever the size of the object, as at S3.
# Observed: `FakeKey.value` reads the object into new memory and copies it before the range is cut out, so a range of one
# byte of 64 MiB takes many times as long as one of 64 KiB. A benchmark of ranged reads against moto measures that. The
# script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'moto[server]==5.2.5'
"$folder/venv/bin/python" - <<'PYTHON'
import http.client, time
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
address = server.get_host_and_port()

SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=b"

def ask(method, path, body=None, headers={}):
    connection = http.client.HTTPConnection(*address)
    connection.request(method, path, body, {"Authorization": SIGNED, **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, len(content)

def seconds_of_a_byte(n_bytes):
    assert ask("PUT", "/bucket/key", bytes(n_bytes))[0] == 200
    times = []
    for _ in range(11):
        began = time.monotonic()
        assert ask("GET", "/bucket/key", headers={"Range": "bytes=0-0"}) == (206, 1)
        times.append(time.monotonic() - began)
    return sorted(times)[5]

assert ask("PUT", "/bucket")[0] == 200
small, large = seconds_of_a_byte(64 << 10), seconds_of_a_byte(64 << 20)
print(f"one byte of 64 KiB: {small * 1000:.1f} ms, of 64 MiB: {large * 1000:.1f} ms")
server.stop()
if large < 4 * small:
    raise SystemExit("changed: a range no longer costs as much as the object")
PYTHON
