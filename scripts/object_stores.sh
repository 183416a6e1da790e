#!/bin/bash
# Merges over real object stores, and compares the bytes with local merges.
#
#   scripts/object_stores.sh [THALWEG]      THALWEG is the program [default: target/debug/thalweg]
#
# Needs Python; installs moto (a server that speaks S3) from PyPI into a scratch folder. Servers listen on 127.0.0.1 only.
set -euo pipefail
cd "$(dirname "$0")/.."
thalweg=$(realpath "${1:-target/debug/thalweg}")
place=$(mktemp -d)
trap stop EXIT

stop() {
    [ -s "$place/moto.pid" ] && kill "$(cat "$place/moto.pid")" 2> /dev/null
    if [ -n "${KEEP:-}" ]; then echo "kept: $place"; else rm -rf "$place"; fi
}

python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q 'moto[server]==5.2.5' boto3
port=$((20000 + $$ % 20000))
"$place/venv/bin/moto_server" -H 127.0.0.1 -p "$port" > "$place/moto.log" 2>&1 &
echo $! > "$place/moto.pid"
for _ in $(seq 100); do grep -q Running "$place/moto.log" && break; sleep 0.2; done

export AWS_ENDPOINT_URL=http://127.0.0.1:$port AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=AKIAOBJECTSTORES AWS_SECRET_ACCESS_KEY=secret-of-object-stores
export THALWEG_STAGING=$place/staging THALWEG_RETRY_SECONDS=20

# A run of four checkpoints of 36 MB, so that outputs are uploaded in parts.
"$place/venv/bin/python" - "$place/run" << 'PY'
import json, os, struct, sys
for step in range(100, 500, 100):
    folder = f"{sys.argv[1]}/checkpoint-{step}"
    os.makedirs(folder)
    header, data, offset = {}, [], 0
    for layer in range(9):
        values = bytearray(os.urandom(1024 * 2048 * 2))
        values[1::2] = bytes(byte & 0x3F for byte in values[1::2])
        header[f"layers.{layer}.weight"] = {"dtype": "BF16", "shape": [1024, 2048], "data_offsets": [offset, offset + len(values)]}
        data.append(values)
        offset += len(values)
    text = json.dumps(header).encode()
    with open(f"{folder}/model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(data))
    with open(f"{folder}/config.json", "w") as file:
        json.dump({"model_type": "llama"}, file)
PY
s3() { "$place/venv/bin/python" - "$@" << 'PY'
import os, sys, boto3
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
what, *rest = sys.argv[1:]
if what == "put":
    client.create_bucket(Bucket="bucket")
    for folder, _, names in os.walk(rest[0]):
        for name in names:
            path = os.path.join(folder, name)
            client.upload_file(path, "bucket", "run/" + os.path.relpath(path, rest[0]))
elif what == "get":
    for entry in client.list_objects_v2(Bucket="bucket", Prefix=rest[0] + "/").get("Contents", []):
        path = os.path.join(rest[1], entry["Key"].removeprefix(rest[0] + "/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        client.download_file("bucket", entry["Key"], path)
elif what == "uploads":
    print(len(client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])))
PY
}
s3 put "$place/run"
say() { echo "== $*"; }

say "from the store, and into it"
"$thalweg" -q merge "$place/run" --last 3 -o "$place/local"
"$thalweg" -q merge s3://bucket/run --last 3 -o "$place/fetched"
"$thalweg" -q merge s3://bucket/run --last 3 -o s3://bucket/merged
s3 get merged "$place/merged"
cmp "$place/local/model.safetensors" "$place/fetched/model.safetensors"
cmp "$place/local/model.safetensors" "$place/merged/model.safetensors"
"$thalweg" -q verify s3://bucket/merged --inputs

say "killed at random moments, and resumed"
for round in 1 2 3 4 5 6; do
    "$thalweg" -q merge s3://bucket/run --last 4 -o s3://bucket/killed &
    worker=$!
    sleep "0.$((RANDOM % 9))"
    kill -9 "$worker" 2> /dev/null || true
    wait "$worker" 2> /dev/null || true
    # Nothing, or everything.
    if "$thalweg" -q inspect s3://bucket/killed > "$place/seen" 2>&1; then
        "$thalweg" -q verify s3://bucket/killed
    else
        grep -qE "does not exist|unfinished upload" "$place/seen"
    fi
done
"$thalweg" -q merge s3://bucket/run --last 4 -o s3://bucket/killed
"$thalweg" -q merge "$place/run" --last 4 -o "$place/local4"
s3 get killed "$place/killed"
cmp "$place/local4/model.safetensors" "$place/killed/model.safetensors"
"$thalweg" clean s3://bucket
echo "uploads in parts left open: $(s3 uploads)"

say "no secret is in any file that was written"
if grep -rqE "$AWS_ACCESS_KEY_ID|$AWS_SECRET_ACCESS_KEY" "$place/fetched" "$place/merged" "$place/killed"; then
    echo "a secret was written" >&2
    exit 1
fi
echo "all bytes are those of local merges"
