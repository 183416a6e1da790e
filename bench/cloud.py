#!/usr/bin/env python3
"""Times merges and plans over S3 on loopback, beside a bare client and beside s3fs with PyTorch; shares; and Orbax.

  cloud.py s3 --thalweg T --run DIR [--server standin] [--s3fs PYTHON] [--rounds 3]
  cloud.py plan --thalweg T --run DIR [--latency-ms 20] [--rounds 3]
  cloud.py shares --thalweg T --run DIR [-n 8] [--rounds 3]
  cloud.py orbax --thalweg T --run DIR --python PYTHON [--rounds 3]
  cloud.py sparse DIR      writes a run for `plan`: 50 checkpoints of 30 shards of a 70B model's shape, in holes
  cloud.py make-orbax DIR  writes a run for `orbax`: 3 checkpoints of 0.4 GB (needs jax and orbax-checkpoint)

The stand-in is a separate process that speaks as much of S3 as reading needs and sends files by `sendfile`. It checks
nothing, so it is faster than any real server, and what remains is the client's work. `--server s3rver` (npm; `--s3rver` is the
folder with its node_modules) and `--server moto` (`--moto PYTHON`, with moto_server beside it) are real ones. moto copies the
whole object for each range, so it needs a run of small files. The bare client asks for the same bytes in ranges of 4 MiB on 32
connections by signed addresses, and drops them. Commands run in turn in every round; medians are compared.
"""
import argparse
import hashlib
import hmac
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

MIB = 1 << 20


# The server.


def serve(folder, latency):
    """Prints its port, then answers until it is killed."""
    folder = Path(folder)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    tags = {name: f'"{hashlib.md5(name.encode()).hexdigest()}"' for name in names}
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)

    def listing(query):
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        found = [name for name in names if name.startswith(prefix) and name > after]
        page = found[:1000]
        rows = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-11-01T10:00:00.000Z</LastModified>"
            f"<ETag>{escape(tags[name])}</ETag><Size>{(folder / name).stat().st_size}</Size></Contents>"
            for name in page
        )
        more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(found) > 1000 else ""
        return f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{rows}</ListBucketResult>".encode()

    def answer(connection, method, target, headers):
        url = urlsplit(target)
        key = unquote(url.path).split("/", 2)[2] if url.path.count("/") > 1 else ""
        if latency:
            time.sleep(latency)
        if not key:
            body = listing(parse_qs(url.query))
            return connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        if key not in tags:
            return connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        with open(folder / key, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, end = 0, size
            if found := re.search(r"range: bytes=(\d+)-(\d*)", headers, re.I):
                start, end = int(found[1]), min(size, int(found[2]) + 1 if found[2] else size)
            head = f"HTTP/1.1 206 X\r\nETag: {tags[key]}\r\nLast-Modified: Sun, 01 Nov 2026 10:00:00 GMT\r\n"
            head += f"Content-Length: {end - start}\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
            connection.sendall(head.encode())
            while method != "HEAD" and start < end:
                start += os.sendfile(connection.fileno(), file.fileno(), start, end - start)

    def talk(connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting = b""
        try:
            while True:
                while b"\r\n\r\n" not in waiting:
                    more = connection.recv(65536)
                    if not more:
                        return
                    waiting += more
                head, waiting = waiting.split(b"\r\n\r\n", 1)
                first, headers = head.decode().split("\r\n", 1)
                method, target, _ = first.split(" ")
                answer(connection, method, target, headers)
        except OSError:
            pass

    while True:
        threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


class Server:
    """The stand-in. It shows the folder above the run, so that the run has a name."""

    key = "bench"

    def __init__(self, folder, latency_ms=0):
        command = [sys.executable, __file__, "serve", str(folder), str(latency_ms / 1000)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def variables(self):
        keys = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.key, "AWS_REGION": "us-east-1"}
        return {**os.environ, **keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def processor_seconds(self):
        """Used by all its threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_it_listens(self):
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit("the server does not listen")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class S3rver(Server):
    """A server in JavaScript that keeps objects as files. Its files are links to those of the run."""

    key = "S3RVER"

    def __init__(self, modules, root, keys, folder):
        for key, _ in keys:
            place = root / "bucket" / f"{key}._S3rver_object"
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(folder / key, place)
            # It would read the whole file for its ETag.
            Path(f"{place}.md5").write_text(hashlib.md5(key.encode()).hexdigest())
        self.port = free_port()
        program = Path(modules) / "node_modules/s3rver/bin/s3rver.js"
        command = ["node", program, "-d", root, "-a", "127.0.0.1", "-p", str(self.port), "--silent"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.wait_until_it_listens()


class Moto(Server):
    """A server in Python that keeps objects in memory."""

    def __init__(self, python, keys, folder):
        self.port = free_port()
        program = Path(python).parent / "moto_server"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(self.port)], **quiet)
        self.wait_until_it_listens()
        for path, body in [("/bucket", b""), *[(f"/bucket/{key}", (folder / key).read_bytes()) for key, _ in keys]]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port)
            connection.request("PUT", path, body)
            if connection.getresponse().status != 200:
                raise SystemExit(f"moto does not take {path}")


# The peers.


def signed(port, key, secret):
    """The path and query of an object's signed address (AWS Signature Version 4)."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    scope = f"{now[:8]}/us-east-1/s3/aws4_request"
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{secret}/{scope}",
        "X-Amz-Date": now,
        "X-Amz-Expires": "3600",
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))
    path = f"/bucket/{quote(key)}"
    canonical = f"GET\n{path}\n{query}\nhost:127.0.0.1:{port}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = f"AWS4{secret}".encode()
    for part in (*scope.split("/"), text):
        signature = hmac.new(signature, part.encode(), hashlib.sha256).digest()
    return f"{path}?{query}&X-Amz-Signature={signature.hex()}"


def bare(server, keys):
    """Fetches objects in ranges of 4 MiB on 32 connections, and drops them."""
    addresses = {key: signed(server.port, key, server.key) for key, _ in keys}
    jobs = [(key, start, min(size, start + 4 * MIB)) for key, size in keys for start in range(0, size, 4 * MIB)]
    lock = threading.Lock()

    def fetch(connection, buffer, key, start, end):
        """Returns whether the connection can be used again."""
        request = f"GET {addresses[key]} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nRange: bytes={start}-{end - 1}\r\n\r\n"
        connection.sendall(request.encode())
        n_here, wanted, head = 0, None, b""
        while wanted is None or n_here < wanted:
            n_more = connection.recv_into(buffer[n_here:])
            if not n_more:
                raise OSError("the server closed a connection in the middle of an answer")
            n_here += n_more
            if wanted is None and (at := bytes(buffer[: min(n_here, 4096)]).find(b"\r\n\r\n")) >= 0:
                wanted, head = at + 4 + end - start, bytes(buffer[:at])
                if b" 206 " not in head[:16]:
                    raise OSError(f"the server answers {head[:40]}")
        return head.startswith(b"HTTP/1.1") and b"onnection: close" not in head

    faults = []

    def work():
        buffer = memoryview(bytearray(4 * MIB + 4096))
        connection = None
        try:
            while True:
                with lock:
                    if not jobs or faults:
                        return
                    job = jobs.pop()
                connection = connection or socket.create_connection(("127.0.0.1", server.port))
                if not fetch(connection, buffer, *job):
                    connection.close()
                    connection = None
        except OSError as fault:
            faults.append(fault)

    workers = [threading.Thread(target=work) for _ in range(32)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    if faults:
        raise SystemExit(f"the bare client failed: {faults[0]}")


S3FS = """
import json, struct, sys, os, torch, s3fs
from safetensors.torch import save_file
fs = s3fs.S3FileSystem(client_kwargs={"endpoint_url": os.environ["AWS_ENDPOINT_URL"]})
out, n_checkpoints, *keys = sys.argv[1:]
total = {}
for key in keys:
    data = bytearray(fs.cat_file("bucket/" + key))
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16}
    view = memoryview(data)[8 + length:]
    tensors = {n: torch.frombuffer(view[e["data_offsets"][0]:e["data_offsets"][1]], dtype=dtypes[e["dtype"]]).reshape(e["shape"]) for n, e in header.items()}
    for n, t in tensors.items():
        total[n] = total[n] + t if n in total else t.to(torch.float64)
save_file({n: (t / int(n_checkpoints)).to(torch.float32) for n, t in total.items()}, out)
"""

ORBAX = """
import sys, jax, numpy as np, orbax.checkpoint as ocp
out, *steps = sys.argv[1:]
total = None
with ocp.PyTreeCheckpointer() as checkpointer:
    for step in steps:
        tree = checkpointer.restore(step)
        total = tree if total is None else jax.tree.map(lambda a, b: a + b, total, tree)
    checkpointer.save(out, jax.tree.map(lambda a: a / len(steps), total))
"""

# All chunks of a run, unpacked by the C library of zstd on every core: the least that a merge of them can take.
UNZSTD = """
import sys, os, time, tensorstore as ts, zstandard
from concurrent.futures import ThreadPoolExecutor
chunks = []
for step in sys.argv[1:]:
    store = ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": step}}).result()
    keys = [key for key in store.list().result() if not key.endswith(b"/.zarray")]
    chunks += [read.result().value for read in [store.read(key) for key in keys]]
began = time.monotonic()
with ThreadPoolExecutor(os.cpu_count()) as pool:
    n_bytes = sum(pool.map(lambda chunk: sum(len(part) for part in zstandard.ZstdDecompressor().read_to_iter(chunk, write_size=1 << 20)), chunks))
print(time.monotonic() - began, n_bytes)
"""

MAKE_ORBAX = """
import sys, os, numpy as np, orbax.checkpoint as ocp
run = sys.argv[1]
noise = np.random.default_rng(0)
base = {f"layer_{i}": {"kernel": noise.normal(0, 0.02, (2048, 2048)).astype(np.float32)} for i in range(24)}
with ocp.PyTreeCheckpointer() as checkpointer:
    for step in (1000, 2000, 3000):
        for layer in base.values():
            layer["kernel"] = layer["kernel"] + noise.normal(0, 1e-3, (2048, 2048)).astype(np.float32)
        checkpointer.save(os.path.join(run, str(step), "default"), {"params": base})
"""


# Timing.


class Timed:
    """Runs a command; its seconds, with the sync after it, and its largest resident memory."""

    def __init__(self, command, env=None, folder=".", sync=True):
        began = time.monotonic()
        process = subprocess.Popen(list(map(str, command)), env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        text = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        if sync:
            os.sync()
        self.seconds, self.mib = time.monotonic() - began, usage.ru_maxrss / 1024
        self.user, self.system = usage.ru_utime, usage.ru_stime
        if status:
            raise SystemExit(f"{command} failed: {text}")


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    if Path(path).is_file():
        Path(path).unlink()
    os.sync()
    return path


def show(label, runs, more=""):
    middle = statistics.median(runs)
    print(f"{label:<34} median {middle:7.2f} s  {' '.join(f'{one:.2f}' for one in runs)}  {more}", flush=True)
    return middle


def start_server(args, run, keys):
    if args.server == "s3rver":
        # On the disk of the run, because its files are links.
        return S3rver(args.s3rver, Path(args.work).resolve() / "s3rver", keys, run.parent)
    if args.server == "moto":
        return Moto(args.moto, keys, run.parent)
    return Server(run.parent)


class Passes:
    """The times of the same work, in several rounds: of the clock, of the client's and of the server's processors."""

    def __init__(self, label, server, n_bytes):
        self.label, self.server, self.gigabytes = label, server, n_bytes / 1e9
        self.seconds, self.client, self.served = [], [], []

    def add(self, act):
        before, began, own = self.server.processor_seconds(), time.monotonic(), sum(os.times()[:2])
        one = act()
        self.seconds.append(one.seconds if one else time.monotonic() - began)
        self.client.append(one.user + one.system if one else sum(os.times()[:2]) - own)
        self.served.append(self.server.processor_seconds() - before)
        return one

    def show(self, more=""):
        client, served = (statistics.median(runs) / self.gigabytes for runs in (self.client, self.served))
        rate = self.gigabytes / statistics.median(self.seconds)
        text = f"{rate:.2f} GB/s; processor s per GB: client {client:.2f}, server {served:.2f}"
        return show(self.label, self.seconds, f"{text}{more}")


def bench_s3(args):
    run = Path(args.run).resolve()
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    keys = [(str(path.relative_to(run.parent)), path.stat().st_size) for path in files]
    tensors = [(key, size) for key, size in keys if key.endswith(".safetensors")]
    n_bytes = sum(size for _, size in tensors)
    n_checkpoints = len({Path(key).parent for key, _ in tensors})
    print(f"{args.server}: {n_checkpoints} checkpoints, {len(tensors)} files of tensors, {n_bytes / 1e9:.2f} GB")
    most = 0
    with start_server(args, run, keys) as server:
        env = {**server.variables(), "THALWEG_STAGING": str(work / "staging")}
        labels = ("bare client, 32 connections", "thalweg merge", "thalweg merge --digest none", "the same merge of local files", "s3fs + PyTorch")
        limit, ours, none, local, peer = (Passes(label, server, n_bytes) for label in labels)
        for _ in range(args.rounds):
            limit.add(lambda: bare(server, tensors))
            for passes, options in ((ours, []), (none, ["--digest", "none"])):
                command = [args.thalweg, "merge", f"s3://bucket/{run.name}", "--last", n_checkpoints, *options, "-q", "-o"]
                one = passes.add(lambda: Timed([*command, fresh(work / "out")], env))
                most = max(most, one.mib)
            local.add(lambda: Timed([args.thalweg, "merge", run, "--last", n_checkpoints, "-q", "-o", fresh(work / "out")]))
            if args.s3fs:
                command = [args.s3fs, "-c", S3FS, fresh(work / "peer.safetensors"), n_checkpoints, *[key for key, _ in tensors]]
                peer.add(lambda: Timed(command, env))
    seconds = limit.show(), ours.show(f"; at most {most:.0f} MiB"), none.show()
    local.show()
    print(f"bytes/s of the bare client's: {seconds[0] / seconds[1]:.2f} x with digests, {seconds[0] / seconds[2]:.2f} x without")
    if args.s3fs:
        theirs = peer.show()
        print(f"s3fs + PyTorch takes {theirs / seconds[1]:.1f} x as long as thalweg, {theirs / seconds[2]:.1f} x as --digest none")
    shutil.rmtree(work)


def bench_plan(args):
    run = Path(args.run).resolve()
    plan = Path(args.work) / "plan.json"
    plan.parent.mkdir(parents=True, exist_ok=True)
    seconds = []
    with Server(run.parent, args.latency_ms) as server:
        for _ in range(args.rounds):
            command = [args.thalweg, "plan", f"s3://bucket/{run.name}", "--last", "50", "-o", fresh(plan)]
            seconds.append(Timed(command, server.variables()).seconds)
    show(f"plan, {args.latency_ms} ms on each request", seconds)
    shutil.rmtree(plan.parent)


def bench_shares(args):
    run, work = Path(args.run).resolve(), Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    whole, shared = [], []
    for _ in range(args.rounds):
        out, plan = fresh(work / "out"), work / "plan.json"
        fresh(plan)
        Timed([args.thalweg, "plan", run, "--last", len(list(run.iterdir())), "--merged", out, "-o", plan])
        whole.append(Timed([args.thalweg, "merge", "-q", "--plan", plan]).seconds)
        expected = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        fresh(out)
        began = time.monotonic()
        for share in range(args.n):
            Timed([args.thalweg, "merge", "-q", "--plan", plan, "--shard", f"{share}/{args.n}"], sync=False)
        Timed([args.thalweg, "merge", "-q", "--plan", plan, "--finish"])
        shared.append(time.monotonic() - began)
        found = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
        print("same bytes" if found == expected else "OTHER BYTES", flush=True)
    one, many = show("one process", whole), show(f"{args.n} shares, one after another, finish", shared)
    print(f"{many / one:.2f} x")
    shutil.rmtree(work)


def bench_orbax(args):
    run, work = Path(args.run).resolve(), Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    steps = [step / "default" for step in sorted(run.iterdir(), key=lambda path: int(path.name))]
    ours, peer, floor, processor = {"orbax": [], "safetensors": []}, [], [], {"orbax": [], "safetensors": []}
    for _ in range(args.rounds):
        for form in ours:
            command = [args.thalweg, "merge", run, "--last", len(steps), "--format", form, "-q", "-o", fresh(work / "out")]
            one = Timed(command)
            ours[form].append(one.seconds)
            processor[form].append(f"{one.user:.1f}+{one.system:.1f}")
        peer.append(Timed([args.python, "-c", ORBAX, fresh(work / "peer"), *steps]).seconds)
        unpacked = subprocess.run([args.python, "-c", UNZSTD, *steps], check=True, capture_output=True, text=True).stdout.split()
        floor.append(float(unpacked[0]))
    least = show("zstd alone, all cores", floor, f"{int(unpacked[1]) / 1e9:.2f} GB unpacked")
    theirs = show("orbax restore, average, save", peer)
    for form, seconds in ours.items():
        mine = show(f"thalweg merge --format {form}", seconds, f"processor seconds {' '.join(processor[form])}")
        print(f"orbax takes {theirs / mine:.1f} x as long; {mine / least:.2f} x zstd alone")
    shutil.rmtree(work)


def make_sparse(folder):
    sys.path.insert(0, str(Path(__file__).parent))
    from plan_70b import make_checkpoint

    for step in range(1, 51):
        make_checkpoint(os.path.join(folder, f"step_{1000 * step}"), 30)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what")
    parser.add_argument("places", nargs="*")
    parser.add_argument("--thalweg")
    parser.add_argument("--run")
    parser.add_argument("--work", default="cloud-bench")
    parser.add_argument("--server", choices=["standin", "s3rver", "moto"], default="standin")
    parser.add_argument("--s3rver")
    parser.add_argument("--moto")
    parser.add_argument("--s3fs")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-n", type=int, default=8)
    args = parser.parse_args()
    match args.what:
        case "serve":
            serve(args.places[0], float(args.places[1]))
        case "sparse":
            make_sparse(args.places[0])
        case "make-orbax":
            subprocess.run([args.python, "-c", MAKE_ORBAX, os.path.abspath(args.places[0])], check=True)
        case "s3":
            bench_s3(args)
        case "plan":
            bench_plan(args)
        case "shares":
            bench_shares(args)
        case "orbax":
            bench_orbax(args)
        case other:
            parser.error(f"{other} is not a bench")


main()
