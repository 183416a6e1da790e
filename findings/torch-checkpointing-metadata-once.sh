#!/usr/bin/env bash
# torch_checkpointing 0.1.1 (torch 2.15.0): of several checkpoints that one process saves, only the first has metadata.pkl.
#
# Expected: each checkpoint folder describes itself.
# Observed: the synchronous saver writes metadata.pkl in the first step and leaves it out of later steps until the layout
# changes. Sharded tensors in later folders can only be assembled with the first folder's file, or from the tensor objects
# in the pickles; with the safetensors layout nothing in a later folder says that the files hold pieces. Deleting old
# checkpoints deletes the description of the new ones. The asynchronous saver writes the file each time. The script fails
# when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.15.0 torch_checkpointing==0.1.1 numpy==2.4.6
cd "$folder"
cat > main.py <<'PYTHON'
import os, torch
from torch_checkpointing.checkpoint_manager import CheckpointManager
from torch_checkpointing.default_resharder import DefaultResharder
from torch_checkpointing.schema import ItemSpec
from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

def main():
    seen = {}
    for how in ("sync", "async"):
        config = CheckpointManager.Config.with_sync_save() if how == "sync" else CheckpointManager.Config.with_async_save()
        config.items = {"model": ItemSpec(resharder=DefaultResharder())}
        config.storage_config = LocalFileSystemStorageConfig(use_direct_io=False)
        manager = CheckpointManager(config)
        for step in (10, 20, 30):
            wait = manager.save(f"{how}/step-{step}", {"model": {"w": torch.full((4, 2), float(step))}})
            if wait is not None:
                wait.result()
        manager.close()
        seen[how] = [os.path.exists(f"{how}/step-{step}/metadata.pkl") for step in (10, 20, 30)]
        assert all(os.path.exists(f"{how}/step-{step}/model_0.pt") for step in (10, 20, 30))
    print("metadata.pkl in steps 10, 20, 30:", seen)
    assert seen == {"sync": [True, False, False], "async": [True, True, True]}, seen

if __name__ == "__main__":                                    # the asynchronous saver starts a process that imports this file
    main()
PYTHON
"$folder/venv/bin/python" main.py
