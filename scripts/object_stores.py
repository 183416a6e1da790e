"""Merges over real object stores, through a proxy that injects faults, and compares the bytes with local merges.

  object_stores.py THALWEG PLACE [STORE ..]      STORE is s3, gs or az [default: all whose servers are installed]

`object_stores.sh` installs the servers: moto (S3; Google's XML API is the same protocol) and Azurite (Azure). PLACE is an
empty folder. Servers and proxy listen on 127.0.0.1 only. Ends with 1 if anything is not as it should be.
"""

import http.client
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

THALWEG, PLACE = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
N_KILLS = int(os.environ.get("N_KILLS", "4"))
SECRETS = ["AKIAOBJECTSTORES", "secret-of-object-stores", "token-of-object-stores"]
# The key of the account that every Azurite has; it is public.
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Proxy:
    """Passes requests on. `fault` is asked for each: a function of method and path that names a fault, or None."""

    def __init__(self, upstream):
        self.fault = lambda method, path: None
        self.before = lambda method, path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = unquote(self.path)
                proxy.before(self.command, path)
                fault = proxy.fault(self.command, path)
                if isinstance(fault, tuple):
                    status, code, headers = fault
                    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Key>{SECRETS[0]}</Key></Error>".encode()
                    return self.answer(status, {"Content-Type": "application/xml", **headers}, text)
                if fault == "close":
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                if fault == "slow":
                    time.sleep(0.3)
                connection = http.client.HTTPConnection(*upstream)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body or None)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                self.answer(answer.status, dict(answer.getheaders()), content, fault)

            def answer(self, status, headers, content, fault=None):
                dropped = {"transfer-encoding", "connection", "keep-alive", "content-length"}
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                length = len(content)
                if self.command == "HEAD":
                    length = headers.get("Content-Length", headers.get("content-length", 0))
                elif fault == "short" and content:
                    content, length = content[:-1], length - 1
                if status != 204:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
                if fault == "cut" and content:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    # The client went away, as it may when it is killed.
                    pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


class Moto:
    """S3, by moto."""

    scheme = "s3"

    def __init__(self):
        import boto3

        self.port = free_port()
        program = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port)
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="other",
            aws_secret_access_key="other",
        )
        self.client.create_bucket(Bucket="bucket")

    def variables(self, endpoint):
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": SECRETS[0],
            "AWS_SECRET_ACCESS_KEY": SECRETS[1],
            "AWS_SESSION_TOKEN": SECRETS[2],
        }

    def put(self, key, content):
        self.client.put_object(Bucket="bucket", Key=key, Body=content)

    def get(self, key):
        return self.client.get_object(Bucket="bucket", Key=key)["Body"].read()

    def keys(self, prefix):
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
        return sorted(entry["Key"] for entry in found)

    def n_open_uploads(self):
        return len(self.client.list_multipart_uploads(Bucket="bucket").get("Uploads", []))

    expired = (400, "ExpiredToken", {})


class Google(Moto):
    """Google's client and XML API. The stand-ins for it that can be installed know only reads of that API, or none of
    it; but it is the protocol of S3, so moto answers."""

    scheme = "gs"

    def variables(self, endpoint):
        return {"STORAGE_EMULATOR_HOST": endpoint, "GOOGLE_BEARER_TOKEN": SECRETS[2]}

    expired = (401, "AuthenticationRequired", {})


class Azurite:
    """Azure, by Azurite."""

    scheme = "az"

    def __init__(self):
        from azure.storage.blob import BlobServiceClient

        self.port = free_port()
        folder = PLACE / "azurite"
        program = [os.environ["AZURITE"], "--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--inMemoryPersistence"]
        program += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        folder.mkdir()
        self.process = subprocess.Popen(program, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.port)
        service = BlobServiceClient.from_connection_string(self.connection(f"http://127.0.0.1:{self.port}"))
        self.client = service.create_container("bucket")

    def connection(self, endpoint):
        return f"AccountName=devstoreaccount1;AccountKey={AZURITE_KEY};BlobEndpoint={endpoint}/devstoreaccount1;"

    def variables(self, endpoint):
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection(endpoint)}

    def put(self, key, content):
        self.client.upload_blob(key, content, overwrite=True)

    def get(self, key):
        return self.client.download_blob(key).readall()

    def keys(self, prefix):
        return sorted(self.client.list_blob_names(name_starts_with=prefix))

    def n_open_uploads(self):
        # Blocks that no blob has are removed by the store after a week; a client can neither list nor remove them.
        return 0

    expired = (403, "AuthenticationFailed", {})


def write_run(folder, n_checkpoints=3, n_layers=5):
    """Checkpoints of 20 MB, so that outputs are uploaded in parts."""
    noise = random.Random(0)
    for step in range(100, 100 * n_checkpoints + 1, 100):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        header, data, offset = {}, [], 0
        for layer in range(n_layers):
            values = bytearray(noise.randbytes(1024 * 2048 * 2))
            values[1::2] = bytes(byte & 0x3F for byte in values[1::2])
            span = [offset, offset + len(values)]
            header[f"layers.{layer}.weight"] = {"dtype": "BF16", "shape": [1024, 2048], "data_offsets": span}
            data.append(values)
            offset += len(values)
        text = json.dumps(header).encode()
        (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
        (checkpoint / "config.json").write_text('{"model_type": "llama"}')


class Checks:
    def __init__(self, store):
        self.store, self.place = store, PLACE / store.scheme
        self.place.mkdir()
        self.proxy = Proxy(("127.0.0.1", store.port))
        self.root = f"{store.scheme}://bucket"
        self.env = {
            **os.environ,
            **store.variables(self.proxy.url),
            "THALWEG_STAGING": str(self.place / "staging"),
            "THALWEG_RETRY_SECONDS": "20",
        }
        for path in sorted((PLACE / "run").rglob("*")):
            if path.is_file():
                store.put(f"run/{path.relative_to(PLACE / 'run')}", path.read_bytes())

    def check(self, is_so, what):
        if not is_so:
            raise SystemExit(f"{self.store.scheme}: {what}")

    def start(self, *args, **env):
        args = [str(THALWEG), *map(str, args)]
        out = subprocess.PIPE
        return subprocess.Popen(args, env={**self.env, **env}, stdout=out, stderr=subprocess.STDOUT, cwd=self.place)

    def end(self, process, *codes):
        text = process.communicate(timeout=120)[0].decode()
        self.check(process.returncode in codes, f"{process.args[1:]} ended with {process.returncode}: {text}")
        self.check(not any(secret in text for secret in [*SECRETS, AZURITE_KEY]), f"a secret is in: {text}")
        return text

    def run(self, *args, code=0, **env):
        return self.end(self.start(*args, **env), code)

    def merge(self, out, last=2, code=0):
        return self.run("merge", f"{self.root}/run", "--last", last, "-o", out, code=code)

    def same(self, key, last):
        """The tensors at a key are those of the local merge."""
        expected = (PLACE / f"local-{last}" / "model.safetensors").read_bytes()
        self.check(self.store.get(f"{key}/model.safetensors") == expected, f"{key} has other bytes than a local merge")
        marks = [name for name in self.store.keys(f"{key}/") if "upload" in name]
        self.check(not marks, f"{marks} are left")

    def nothing_or_everything(self, key):
        """Nothing is to be seen of an output, or the whole one."""
        process = self.start("inspect", f"{self.root}/{key}")
        text = self.end(process, 0, 2)
        if process.returncode == 0:
            self.run("verify", f"{self.root}/{key}")
        else:
            self.check("does not exist" in text or "unfinished upload" in text, f"inspect says: {text}")

    def reads_and_writes(self):
        self.check("3 checkpoints" in self.run("inspect", f"{self.root}/run"), "the run is not listed")
        self.merge("fetched")
        expected = (PLACE / "local-2/model.safetensors").read_bytes()
        self.check((self.place / "fetched/model.safetensors").read_bytes() == expected, "other bytes than a local merge")
        self.merge(f"{self.root}/merged")
        self.same("merged", 2)
        self.run("verify", f"{self.root}/merged", "--inputs")
        again = self.merge(f"{self.root}/merged")
        self.check("already holds" in again, f"the output is not known again: {again}")
        self.run("merge", f"{self.root}/run", "--last", "3", "-o", f"{self.root}/merged", "--force")
        self.same("merged", 3)
        if self.store.scheme == "gs":
            # An emulator is written to without credentials too.
            self.run("merge", f"{self.root}/run", "--last", "2", "-o", f"{self.root}/plain", GOOGLE_BEARER_TOKEN="")
            self.same("plain", 2)

    def kills(self):
        for _ in range(N_KILLS):
            process = self.start("merge", f"{self.root}/run", "--last", "3", "-o", f"{self.root}/killed")
            time.sleep(random.random())
            process.kill()
            process.wait()
            self.nothing_or_everything("killed")
        self.merge(f"{self.root}/killed", last=3)
        self.same("killed", 3)
        # A kill between the store's answer and the note of it leaves an upload that only the store knows.
        self.n_unknown_uploads = self.store.n_open_uploads()
        self.check(self.n_unknown_uploads <= N_KILLS, f"{self.n_unknown_uploads} uploads are left by {N_KILLS} kills")

    def passing_faults(self):
        """Whatever passes: the same bytes."""
        busy, broken = (503, "SlowDown", {"Retry-After": "1"}), (500, "InternalError", {})
        faults = [busy, broken, (429, "TooManyRequests", {}), "close", "slow", "cut", "short"]
        noise = random.Random(1)

        def fault(method, path):
            name = noise.choice(faults) if noise.random() < 0.15 else None
            # What was written before its answer was lost is written again, so only answers to reads are spoilt.
            return None if name in ("cut", "short") and (method != "GET" or "list" in path) else name

        self.proxy.fault = fault
        self.merge(f"{self.root}/shaken", last=3)
        self.proxy.fault = lambda *_: None
        self.same("shaken", 3)

    def replaced_objects(self):
        key, began = "run/checkpoint-300/model.safetensors", []

        def replace(method, path):
            # After the headers were read.
            if method == "GET" and "checkpoint-300" in path and "model" in path:
                began.append(path)
                if len(began) == 2:
                    self.store.put(key, bytes(len(content)))

        content = self.store.get(key)
        self.proxy.before = replace
        text = self.merge("replaced", code=2)
        self.proxy.before = lambda *_: None
        self.store.put(key, content)
        self.check("changed while it was read" in text, f"a replaced object is not named: {text}")
        self.check(not (self.place / "replaced").exists(), "an output of two versions was published")

    def expiry(self):
        """Credentials that expire while a source is read, and while the output is uploaded."""
        for what, after in (("GET", 6), ("PUT", 3)):
            n_seen = []

            def fault(method, path, what=what, after=after, n_seen=n_seen):
                n_seen.extend([path] if method == what else [])
                return self.store.expired if len(n_seen) > after else None

            self.proxy.fault = fault
            text = self.merge(f"{self.root}/expired-{what}", code=2)
            self.proxy.fault = lambda *_: None
            self.check("credentials" in text or "AWS_ACCESS_KEY_ID" in text, f"nothing is said of credentials: {text}")
            self.nothing_or_everything(f"expired-{what}")
            self.merge(f"{self.root}/expired-{what}")
            self.same(f"expired-{what}", 2)

    def resumed_uploads(self):
        """What was sent is not sent again, and nothing is merged again."""
        sent = []
        self.proxy.before = lambda method, path: sent.extend([path] if method == "PUT" else [])
        self.proxy.fault = lambda method, path: (403, "AccessDenied", {}) if "thalweg.json" in path else None
        self.merge(f"{self.root}/resumed", code=2)
        n_first, sent[:] = len(sent), []
        self.proxy.fault = lambda *_: None
        text = self.merge(f"{self.root}/resumed")
        self.proxy.before = lambda *_: None
        self.check("by an earlier run" in text, f"merged again: {text}")
        self.check(len(sent) == 2 < n_first, f"sent again: {sent}, {n_first} at first")
        self.same("resumed", 2)

    def stops(self):
        """A stop while a store is busy takes a moment, and leaves what can be resumed."""
        self.proxy.fault = lambda method, path: (503, "SlowDown", {}) if "run/" in path or "prefix=run" in path else None
        process = self.start("merge", f"{self.root}/run", "--last", "2", "-o", "stopped")
        time.sleep(0.7)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        self.end(process, 130)
        seconds = time.monotonic() - began
        self.check(seconds < 2, f"a stop took {seconds:.1f} s")
        self.proxy.fault = lambda *_: None

    def leftovers(self):
        self.proxy.fault = lambda method, path: (403, "AccessDenied", {}) if "thalweg.json" in path else None
        self.merge(f"{self.root}/left", code=2)
        self.proxy.fault = lambda *_: None
        hidden = self.run("inspect", f"{self.root}/left", code=2)
        self.check("unfinished upload" in hidden, f"inspect says: {hidden}")
        named = self.run("clean", self.root, "--dry-run")
        self.check(f"`{self.root}/left`" in named, f"clean says: {named}")
        self.run("clean", f"{self.root}/left")
        self.check(not self.store.keys("left/"), f"{self.store.keys('left/')} are left")
        self.check(self.store.n_open_uploads() == self.n_unknown_uploads, "an upload in parts is left")

    def secrets(self):
        for path in [*self.place.rglob("*")]:
            if path.is_file():
                content = path.read_bytes()
                found = [secret for secret in [*SECRETS, AZURITE_KEY] if secret.encode() in content]
                self.check(not found, f"a secret is in {path}")
        for key in self.store.keys(""):
            if not key.endswith(".safetensors"):
                content = self.store.get(key).decode()
                self.check(not any(secret in content for secret in [*SECRETS, AZURITE_KEY]), f"a secret is in {key}")


STEPS = [
    Checks.reads_and_writes,
    Checks.kills,
    Checks.passing_faults,
    Checks.replaced_objects,
    Checks.expiry,
    Checks.resumed_uploads,
    Checks.stops,
    Checks.leftovers,
    Checks.secrets,
]


def main():
    wanted = sys.argv[3:] or ["s3", "gs", "az"]
    write_run(PLACE / "run")
    for last in (2, 3):
        out = PLACE / f"local-{last}"
        subprocess.run([THALWEG, "-q", "merge", PLACE / "run", "--last", str(last), "-o", out], check=True, stdout=subprocess.DEVNULL)
    for kind in (Moto, Google, Azurite):
        if kind.scheme not in wanted:
            continue
        if kind is Azurite and not os.environ.get("AZURITE"):
            print("az: skipped, Azurite is not installed")
            continue
        store = kind()
        try:
            checks = Checks(store)
            for step in STEPS:
                began = time.monotonic()
                step(checks)
                print(f"{kind.scheme}: {step.__name__.replace('_', ' ')} ({time.monotonic() - began:.1f} s)", flush=True)
        finally:
            store.process.terminate()
            store.process.wait()
        shutil.rmtree(PLACE / kind.scheme)


main()
