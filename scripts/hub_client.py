"""Compares `thalweg fetch` with `huggingface_hub`, against one local hub: both must leave the same cache.

    python scripts/hub_client.py [THALWEG]      THALWEG is the program [default: target/debug/thalweg]

Needs the package `huggingface_hub`. Nothing outside this machine is asked.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
program = Path(sys.argv[1] if len(sys.argv) > 1 else root / "target/debug/thalweg").resolve()
place = Path(tempfile.mkdtemp())

sys.path.insert(0, str(Path(__file__).parent))
import hub_server  # noqa: E402

STEPS = ["step-20", "step-40"]
PATTERNS = ["*.safetensors", "*.index.json", "config.json", "generation_config.json", "tokenizer*", "special_tokens*"]


def tree(folder):
    """Every file and link below a folder, with its content or target. Files that only one client writes are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = os.readlink(path)
        elif path.is_file() and path.suffix not in {".lock", ".json"} and path.name != "CACHEDIR.TAG":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


try:
    for step in STEPS:
        source = root / "fixtures/hf-sharded" / step
        target = place / "hub/org/small" / step
        shutil.copytree(source, target)
        (target / "README.md").write_text("# a card\n")
        (target / "pytorch_model.bin").write_bytes(b"PK" * 1000)
    endpoint = hub_server.start(place / "hub")
    os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=str(place / "home"), HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.update(HF_HUB_CACHE=str(place / "ours"), HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    import huggingface_hub

    print("huggingface_hub", huggingface_hub.__version__)
    fetched = subprocess.run([program, "fetch", "org/small", "--every", "1"], check=True, text=True, stdout=subprocess.PIPE)
    print(fetched.stdout, end="")
    for step in STEPS:
        huggingface_hub.snapshot_download("org/small", revision=step, cache_dir=place / "theirs", allow_patterns=PATTERNS)
    ours, theirs = (tree(place / name / "models--org--small") for name in ("ours", "theirs"))
    for name in sorted(ours.keys() ^ theirs.keys()):
        print(f"only {'ours' if name in ours else 'theirs'}: {name}")
    assert ours == theirs, "the caches differ"

    scanned = huggingface_hub.scan_cache_dir(place / "ours")
    assert not scanned.warnings, scanned.warnings
    [repository] = scanned.repos
    assert repository.repo_id == "org/small" and {ref for one in repository.revisions for ref in one.refs} == set(STEPS)
    # Found without asking the hub, and not fetched again when it is asked.
    for step in STEPS:
        offline = huggingface_hub.snapshot_download(
            "org/small", revision=step, cache_dir=place / "ours", allow_patterns=PATTERNS, local_files_only=True
        )
        assert (Path(offline) / "config.json").is_file()
        [blob] = {os.stat(Path(offline) / "config.json").st_mtime_ns}
        huggingface_hub.hf_hub_download("org/small", "config.json", revision=step, cache_dir=place / "ours")
        assert os.stat(Path(offline) / "config.json").st_mtime_ns == blob
    # What huggingface_hub fetched is not fetched again either.
    os.environ["HF_HUB_CACHE"] = str(place / "theirs")
    again = subprocess.run([program, "fetch", "org/small", "--every", "1"], check=True, text=True, stdout=subprocess.PIPE)
    assert "in the cache already" in again.stdout, again.stdout
    print("both leave the same cache")
finally:
    shutil.rmtree(place)
