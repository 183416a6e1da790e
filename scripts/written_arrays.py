#!/usr/bin/env python3
"""Loads outputs in the formats npz and gguf with NumPy, ml_dtypes and the package gguf, and compares every tensor with the same merge as safetensors, bit for bit.

    THALWEG=target/debug/thalweg python scripts/written_arrays.py

Merges the fixtures into each format. Needs numpy, ml_dtypes, gguf and safetensors. Exits with 0 if everything is equal.
"""
import os
import subprocess
import sys
import tempfile
import zipfile

import gguf
import ml_dtypes
import numpy as np
from merges_of_fixtures import read_tensors

PROGRAM = os.path.abspath(os.environ.get("THALWEG", "target/debug/thalweg"))
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures")
SOURCES = {"npz": ["npz/step-80.npz", "hf-sharded/step-80", "torch/trainstate/step-80.pt", "gguf/types.gguf"], "gguf": ["gguf/step-20.gguf", "gguf/f16-aligned.gguf"]}


def convert(source, form, out):
    subprocess.run([PROGRAM, "convert", os.path.join(FIXTURES, source), "--format", form, "-o", out], check=True, capture_output=True)


def from_npz(folder):
    path = os.path.join(folder, "model.npz")
    bad = zipfile.ZipFile(path).testzip()
    assert bad is None, bad
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    # As a user of ml_dtypes reads them.
    return {name: array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array for name, array in arrays.items()}


def from_gguf(folder):
    (name,) = [name for name in os.listdir(folder) if name.endswith(".gguf")]
    reader = gguf.GGUFReader(os.path.join(folder, name))
    assert reader.get_field("general.architecture").contents() == "llama"
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == 40
    return {tensor.name: tensor.data for tensor in reader.tensors}


def main():
    n_wrong = 0
    for form, sources in SOURCES.items():
        for source in sources:
            with tempfile.TemporaryDirectory() as scratch:
                convert(source, form, os.path.join(scratch, form))
                convert(source, "safetensors", os.path.join(scratch, "expected"))
                expected = read_tensors(os.path.join(scratch, "expected"))
                found = (from_npz if form == "npz" else from_gguf)(os.path.join(scratch, form))
                faults = [f"names: {sorted(found.keys() ^ expected.keys())[:4]}"] if found.keys() != expected.keys() else []
                for name, (_, shape, data) in expected.items():
                    if name in found and (found[name].tobytes() != data or form == "npz" and list(found[name].shape) != shape):
                        faults.append(name)
            n_wrong += bool(faults)
            print(f"{source} as {form}: " + ("; ".join(faults[:6]) if faults else f"{len(expected)} tensors are equal"))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
