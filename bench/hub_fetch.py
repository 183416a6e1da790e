"""Times `thalweg fetch` beside `huggingface_hub` and curl, from a hub on the loopback (scripts/hub_server.py).

    python bench/hub_fetch.py make FOLDER       writes 4 revisions of 2 shards of 200 MB
    python bench/hub_fetch.py run FOLDER        three interleaved rounds; medians

THALWEG is the program [default: target/release/thalweg]. The run needs `huggingface_hub` and curl. huggingface_hub speaks
plain HTTP here, with 8 workers; curl, 8 at once, is the bare client: it checks nothing. Each cache is removed after its
turn.
"""

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
STEPS = (1000, 2000, 3000, 4000)
N_ELEMENTS = 100_000_000


def make(folder):
    for step in STEPS:
        revision = folder / f"hub/org/big/step{step}"
        revision.mkdir(parents=True, exist_ok=True)
        (revision / "config.json").write_text("{}")
        weight_map = {}
        for shard in (1, 2):
            name = f"model-0000{shard}-of-00002.safetensors"
            entry = {"dtype": "BF16", "shape": [N_ELEMENTS], "data_offsets": [0, 2 * N_ELEMENTS]}
            header = json.dumps({f"w{shard}": entry}).encode()
            header += b" " * (-len(header) % 8)
            with (revision / name).open("wb") as file:
                file.write(struct.pack("<Q", len(header)) + header)
                for _ in range(20):
                    file.write(os.urandom(N_ELEMENTS // 10))
            weight_map[f"w{shard}"] = name
        (revision / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def fetch_with_thalweg(program, cache, _):
    subprocess.run([program, "fetch", "-q", "org/big", "--every", "1"], check=True, stdout=subprocess.DEVNULL)


def fetch_with_huggingface_hub(_, cache, __):
    code = "import sys, huggingface_hub as hub\nfor step in sys.argv[2:]:\n    hub.snapshot_download('org/big', revision=step, cache_dir=sys.argv[1], max_workers=8)"
    subprocess.run([sys.executable, "-c", code, cache, *(f"step{step}" for step in STEPS)], check=True)


def fetch_with_curl(_, cache, endpoint):
    words = ["curl", "--silent", "--no-progress-meter", "--fail", "--location", "--parallel", "--parallel-immediate", "--parallel-max", "8"]
    for step in STEPS:
        for shard in (1, 2):
            name = f"model-0000{shard}-of-00002.safetensors"
            words += ["-o", f"{cache}/{step}-{shard}", f"{endpoint}/org/big/resolve/step{step}/{name}"]
    subprocess.run(words, check=True)


def run(folder):
    program = Path(os.environ.get("THALWEG", root / "target/release/thalweg")).resolve()
    server = subprocess.Popen([sys.executable, root / "scripts/hub_server.py", folder / "hub"], stdout=subprocess.PIPE, text=True)
    try:
        endpoint = server.stdout.readline().strip()
        os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=str(folder / "home"), HF_HUB_DISABLE_XET="1")
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1")
        # The server takes the digests of its files once.
        for step in STEPS:
            subprocess.run(["curl", "--silent", "-o", os.devnull, f"{endpoint}/api/models/org/big/tree/step{step}"], check=True)
        ways = {"thalweg": fetch_with_thalweg, "huggingface_hub": fetch_with_huggingface_hub, "curl": fetch_with_curl}
        seconds = {name: [] for name in ways}
        for _ in range(3):
            for name, fetch in ways.items():
                cache = folder / f"cache-{name}"
                shutil.rmtree(cache, ignore_errors=True)
                cache.mkdir()
                os.environ["HF_HUB_CACHE"] = str(cache)
                os.sync()
                began = time.monotonic()
                fetch(program, cache, endpoint)
                os.sync()
                seconds[name].append(time.monotonic() - began)
                shutil.rmtree(cache)
    finally:
        server.terminate()
    n_bytes = len(STEPS) * 4 * N_ELEMENTS
    ours = statistics.median(seconds["thalweg"])
    for name, times in seconds.items():
        median = statistics.median(times)
        rounds = ", ".join(f"{time:.2f}" for time in times)
        print(f"{name}: {median:.2f} s, {n_bytes / median / 1e9:.2f} GB/s, {median / ours:.2f} x the time of thalweg ({rounds})")


if __name__ == "__main__":
    {"make": make, "run": run}[sys.argv[1]](Path(sys.argv[2]).resolve())
