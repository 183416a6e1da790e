#!/usr/bin/env bash
# torchtitan 0.3.0 with torch_checkpointing 0.1.1: the back end that torchtitan names can neither be imported nor save.
#
# Expected: torchtitan's second checkpoint back end works with the package that it names.
# Observed: it imports torch_checkpointing.dtensor_resharder, which 0.1.1 calls default_resharder (0.1.0 has the old name),
# and its save and load raise NotImplementedError. So a folder in this format does not come from torchtitan 0.3.0. The
# script only reads the installed files, so it does not install torchtitan's other requirements. It fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps torchtitan==0.3.0 torch_checkpointing==0.1.1
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import ast, importlib.metadata as metadata, pathlib
files = {str(f): pathlib.Path(f.locate()) for name in ("torchtitan", "torch_checkpointing") for f in metadata.files(name)}
tree = ast.parse(files["torchtitan/components/checkpointer/torch_checkpointing.py"].read_text())
wanted = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("torch_checkpointing.")}
missing = sorted(m for m in wanted if m.replace(".", "/") + ".py" not in files and m.replace(".", "/") + "/__init__.py" not in files)
stubs = sorted(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)
               and any(isinstance(s, ast.Raise) and getattr(getattr(s.exc, "func", None), "id", "") == "NotImplementedError" for s in n.body))
print("imports that do not exist:", missing, "; methods that only raise NotImplementedError:", stubs)
assert missing == ["torch_checkpointing.dtensor_resharder"] and {"_load", "_save"} <= set(stubs)
PYTHON
