#!/usr/bin/env python3
"""Quantises made-up models to block-scaled FP8 with PyTorch, converts and merges them with thalweg, and compares every tensor with the products in doubles, bit for bit.

    cargo build --release -p thalweg-cli
    python scripts/fp8_blocks.py target/release/thalweg

    convert      to bf16, f32 and f16: code x scale in doubles, rounded once (`tensor.to` rounds doubles twice); shapes that blocks of 128 x 128 do not divide, other
                 blocks, scales in bf16, all 256 codes but the two NaNs, stacks of matrices, one file and shards
    merge        of two and of three, and of a quantised source with one in bf16: the sum in exact fractions, rounded once
    reader       torch.distributed.checkpoint.QuantizedHuggingFaceStorageReader gives the same bits where it rounds once, in f32
    config       config.json loses quantization_config and nothing else

Needs torch and safetensors. Exits with 0 if everything is equal.
"""
import json
import os
import subprocess
import sys
import tempfile
from fractions import Fraction

import torch
from safetensors.torch import load_file, save_file

FP8 = torch.float8_e4m3fn
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32, "f16": torch.float16}
CONFIG = {"model_type": "made-up", "torch_dtype": "bfloat16", "rope_theta": 10000.0}


def quantise(weight, block, scale_dtype=torch.float32):
    """Codes and scales of a matrix, or of a stack of matrices, with the largest code in each block."""
    rows, columns = weight.shape[-2:]
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    scales = torch.empty((*weight.shape[:-2], *grid), dtype=scale_dtype)
    codes = torch.empty(weight.shape, dtype=FP8)
    for r in range(grid[0]):
        for c in range(grid[1]):
            at = (..., slice(r * block[0], (r + 1) * block[0]), slice(c * block[1], (c + 1) * block[1]))
            largest = weight[at].abs().amax(dim=(-2, -1)).clamp(min=1e-12)
            scales[..., r, c] = (largest / 448).to(scale_dtype)
            codes[at] = (weight[at] / scales[..., r, c].to(weight.dtype)[..., None, None]).clamp(-448, 448).to(FP8)
    return codes, scales


def dequantise(codes, scales, block):
    """The products in doubles, which hold them exactly."""
    rows, columns = codes.shape[-2:]
    spread = scales.to(torch.float64).repeat_interleave(block[0], -2)[..., :rows, :]
    spread = spread.repeat_interleave(block[1], -1)[..., :columns]
    return codes.to(torch.float64) * spread


def ties_after_f32(generator, block):
    """Codes 15/8 and scales whose products lie just above the middle of two bf16 numbers: in f32 they are the middle."""
    middles = (2 * torch.randint(2**7, 2**8, (512,), generator=generator) + 1) * 2**19
    scales = torch.cat([(middles + above)[(middles + above) % 15 == 0] // 15 for above in range(1, 8)])
    scales = scales[(scales >= 2**23) & (scales < 2**24)][:20, None]
    codes = torch.full((len(scales) * block[0], 1), 0x3F, dtype=torch.uint8).view(FP8)
    return codes, scales.to(torch.float32) * 2.0**-20


def model(seed, block, scale_dtype=torch.float32, shapes=((300, 200), (128, 256), (1, 129), (3, 140, 260))):
    """Stored tensors and the doubles that they stand for."""
    generator = torch.Generator().manual_seed(seed)
    stored, values = {}, {}
    for i, shape in enumerate(shapes):
        weight = torch.randn(shape, generator=generator) * 10.0 ** (i - 2)
        codes, scales = quantise(weight, block, scale_dtype)
        name = f"layers.{i}.experts.gate_up_proj" if len(shape) == 3 else f"layers.{i}.proj.weight"
        stored[name], stored[f"{name}_scale_inv"] = codes, scales
        values[name] = dequantise(codes, scales, block)
    all_codes = torch.tensor([code for code in range(256) if code & 127 != 127], dtype=torch.uint8).view(FP8).reshape(127, 2)
    grid = (-(-127 // block[0]), -(-2 // block[1]))
    scales = (torch.rand(grid, generator=generator) * 2 ** -10).to(scale_dtype)
    stored["codes.weight"], stored["codes.weight_scale_inv"] = all_codes, scales
    values["codes.weight"] = dequantise(all_codes, scales, block)
    codes, scales = ties_after_f32(generator, block)
    stored["ties.weight"], stored["ties.weight_scale_inv"] = codes, scales
    values["ties.weight"] = dequantise(codes, scales, block)
    assert (round_once(values["ties.weight"], torch.bfloat16) != values["ties.weight"].float().bfloat16()).any()
    for name in ("norm.weight", "bias"):
        stored[name] = torch.randn(96, generator=generator).to(torch.bfloat16)
        values[name] = stored[name].to(torch.float64)
    return stored, values


def write(folder, stored, config, n_files=1):
    os.makedirs(folder)
    names = sorted(stored)
    if n_files == 1:
        save_file(stored, os.path.join(folder, "model.safetensors"))
    else:
        weight_map = {}
        for k in range(n_files):
            # Codes and their scales land in different files.
            part = {name: stored[name] for name in names[k::n_files]}
            file = f"model-{k + 1:05}-of-{n_files:05}.safetensors"
            save_file(part, os.path.join(folder, file))
            weight_map.update(dict.fromkeys(part, file))
        with open(os.path.join(folder, "model.safetensors.index.json"), "w") as out:
            json.dump({"metadata": {}, "weight_map": weight_map}, out)
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(config, out, indent=2)


def read(folder):
    found = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            found.update(load_file(os.path.join(folder, name)))
    return found


def differences(found, expected):
    if found.keys() != expected.keys():
        return [f"other names: {sorted(found.keys() ^ expected.keys())}"]
    same = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
    faults = []
    for name, tensor in expected.items():
        if found[name].dtype != tensor.dtype or found[name].shape != tensor.shape:
            faults.append(f"{name} is {found[name].dtype} {tuple(found[name].shape)}")
        elif not torch.equal(found[name].view(same[tensor.dtype]), tensor.view(same[tensor.dtype])):
            faults.append(f"{name}: {(found[name].view(same[tensor.dtype]) != tensor.view(same[tensor.dtype])).sum()} elements differ")
    return faults


# Significant bits, and the exponent of the least subnormal.
PRECISIONS = {torch.bfloat16: (8, -133), torch.float16: (11, -24), torch.float32: (24, -149)}


def round_once(value, dtype):
    """Doubles rounded to the nearest number of the type, ties to even. `value.to(dtype)` goes through float and rounds twice."""
    precision, least = PRECISIONS[dtype]
    exponent = torch.frexp(value).exponent.clamp(min=least + precision) - precision
    # Scaling by powers of two is exact, and torch.round rounds half to even.
    return torch.ldexp(torch.round(torch.ldexp(value, -exponent)), exponent).to(dtype)


def rounded(values, dtype):
    return {name: round_once(value, dtype) for name, value in values.items()}


def round_fraction(value, dtype):
    """The nearest number of the type, ties to even: by the two neighbours of the double next to the fraction."""
    near = round_once(torch.tensor(float(value), dtype=torch.float64), dtype)
    around = [torch.nextafter(near, torch.tensor(-float("inf"), dtype=dtype)), near, torch.nextafter(near, torch.tensor(float("inf"), dtype=dtype))]
    integer = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}[dtype]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(integer)) & 1))


def mean(models, coefficients, dtype):
    """The weighted mean as exact fractions, each rounded once."""
    out = {}
    for name, first in models[0].items():
        columns = [[Fraction(x) for x in values[name].flatten().tolist()] for values in models]
        sums = (sum(c * x for c, x in zip(coefficients, row)) / sum(coefficients) for row in zip(*columns))
        result = torch.stack([round_fraction(value, dtype) for value in sums]).reshape(first.shape)
        # A fraction has no signed zero: a sum of zeros is negative where all terms are.
        terms = [values[name] * c for values, c in zip(models, coefficients)]
        is_negative = torch.stack([term.signbit() & (term == 0) for term in terms]).all(0)
        out[name] = torch.where(is_negative, -result, result)
    return out


def run(thalweg, *arguments):
    return subprocess.run([thalweg, *arguments], capture_output=True, text=True)


def check_convert(thalweg, scratch):
    faults, n = [], 0
    for block, scale_dtype, n_files in [((128, 128), torch.float32, 1), ((128, 128), torch.bfloat16, 3), ((1, 128), torch.float32, 1), ((64, 32), torch.float32, 2)]:
        stored, values = model(7, block, scale_dtype)
        quantisation = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": list(block)}
        source = os.path.join(scratch, f"source{n}")
        write(source, stored, {**CONFIG, "quantization_config": quantisation, "vocab_size": 3}, n_files)
        for word, dtype in DTYPES.items():
            out = os.path.join(scratch, f"out{n}-{word}")
            done = run(thalweg, "convert", source, "-o", out, "--dtype", word)
            if done.returncode != 0:
                faults.append(f"{block} {word}: {done.stderr.strip()}")
                continue
            faults += [f"{block} {word}: {fault}" for fault in differences(read(out), rounded(values, dtype))]
            config = json.load(open(os.path.join(out, "config.json")))
            expected = {**CONFIG, "vocab_size": 3, "torch_dtype": str(dtype).removeprefix("torch.")}
            faults += [] if list(config.items()) == list(expected.items()) else [f"config.json holds {config}"]
            verified = run(thalweg, "verify", out, "--inputs")
            faults += [] if verified.returncode == 0 else [f"verify: {verified.stdout}{verified.stderr}"]
        n += 1
    return faults, f"{n} models in {len(DTYPES)} types"


def check_merge(thalweg, scratch):
    block, config = (16, 16), {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [16, 16]}}
    shapes, paths, models = ((40, 33), (16, 16), (2, 20, 18)), [], []
    for seed in range(3):
        stored, values = model(seed, block, shapes=shapes)
        paths.append(os.path.join(scratch, f"merged-source{seed}"))
        write(paths[-1], stored, config)
        models.append(values)
    plain = rounded(model(9, block, shapes=shapes)[1], torch.bfloat16)
    paths.append(os.path.join(scratch, "plain"))
    write(paths[-1], plain, CONFIG)
    models.append({name: tensor.to(torch.float64) for name, tensor in plain.items()})
    faults, cases = [], [([0, 1], [1, 1]), ([0, 1, 2], [3, -1, 2]), ([0, 3], [1, 2]), ([3, 1, 0], [1, 1, 1])]
    for k, (which, coefficients) in enumerate(cases):
        for word in ("bf16", "f32"):
            out = os.path.join(scratch, f"merge{k}-{word}")
            sources = [part for i, c in zip(which, coefficients) for part in ("-m", f"{paths[i]}:{c}/{sum(coefficients)}")]
            done = run(thalweg, "merge", *sources, "-o", out, "--dtype", word)
            if done.returncode != 0:
                faults.append(f"{which} {word}: {done.stderr.strip()}")
                continue
            expected = mean([models[i] for i in which], coefficients, DTYPES[word])
            faults += [f"{which} {word}: {fault}" for fault in differences(read(out), expected)]
    return faults, f"{len(cases)} merges in 2 types"


def check_reader(thalweg, scratch):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.quantized_hf_storage import QuantizedHuggingFaceStorageReader

    stored, _ = model(11, (128, 128), shapes=((300, 200), (129, 1)))
    source, out = os.path.join(scratch, "reader"), os.path.join(scratch, "reader-out")
    write(source, stored, {**CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, 2)
    done = run(thalweg, "convert", source, "-o", out, "--dtype", "f32")
    if done.returncode != 0:
        return [done.stderr.strip()], "nothing"
    found = read(out)
    weights = {name: torch.zeros(tensor.shape) for name, tensor in found.items() if f"{name}_scale_inv" in stored}
    dcp.load(weights, storage_reader=QuantizedHuggingFaceStorageReader(source), no_dist=True)
    return differences({name: found[name] for name in weights}, weights), f"{len(weights)} weights"


def main():
    checks = [("convert", check_convert), ("merge", check_merge), ("reader", check_reader)]
    is_equal = True
    with tempfile.TemporaryDirectory() as scratch:
        for name, check in checks:
            faults, what = check(sys.argv[1], scratch)
            is_equal &= not faults
            print(f"{name:<10} {what}: {'equal' if not faults else ''}", *faults, sep="\n    " if faults else "")
    sys.exit(0 if is_equal else 1)


if __name__ == "__main__":
    main()
