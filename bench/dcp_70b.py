"""Times the opening of a distributed checkpoint of a 70B model's shape: 700 tensors on 64 ranks, 600 files, sparse.

    python3 bench/dcp_70b.py --program target/release/thalweg --out FOLDER [--n 20]

Needs no PyTorch: the metadata is pickled with classes of the same names. As in a real run, the metadata of each save names its own folder. Prints the seconds and peak memory of `inspect` on one checkpoint and of `plan` over all.
"""
import argparse, os, pickle, subprocess, sys, time, types

RANKS, TENSORS, FILES = 64, 700, 600


def fake(module, name, bases=(object,), namespace=None):
    """A class that pickles under the name of a PyTorch class."""
    parts = module.split(".")
    for i in range(len(parts)):
        path = ".".join(parts[: i + 1])
        sys.modules.setdefault(path, types.ModuleType(path))
    cls = type(name, bases, dict(namespace or {}, __module__=module, __qualname__=name))
    setattr(sys.modules[module], name, cls)
    return cls


META = "torch.distributed.checkpoint.metadata"
Metadata, TensorStorage, Chunk, Index, StorageMeta = (fake(META, n) for n in ("Metadata", "TensorStorageMetadata", "ChunkStorageMetadata", "MetadataIndex", "StorageMeta"))
StorageInfo = fake("torch.distributed.checkpoint.filesystem", "_StorageInfo")
Size = fake("torch", "Size", (tuple,), {"__reduce__": lambda self: (Size, (tuple(self),))})


class Dtype:
    """Pickles as the global `torch.bfloat16`."""
    def __reduce__(self):
        return "bfloat16"


Dtype.__module__ = "torch"
bfloat16 = Dtype()
bfloat16.__module__ = "torch"
sys.modules["torch"].bfloat16 = bfloat16
Properties = fake(META, "TensorProperties", (object,), {"__getstate__": lambda self: (bfloat16, None, False, 0, False, None), "__setstate__": lambda self, state: None})


def make(cls, **attributes):
    value = cls()
    value.__dict__.update(attributes)
    return value


def shapes():
    for layer in range(77):
        for part, shape in (("self_attn.q_proj", (8192, 8192)), ("self_attn.k_proj", (1024, 8192)), ("self_attn.v_proj", (1024, 8192)), ("self_attn.o_proj", (8192, 8192)),
                            ("mlp.gate_proj", (28672, 8192)), ("mlp.up_proj", (28672, 8192)), ("mlp.down_proj", (8192, 28672)), ("input_layernorm", (8192,)), ("post_attention_layernorm", (8192,))):
            yield f"model.layers.{layer}.{part}.weight", shape
    yield from ((f"model.extra.{i}.weight", (8192, 64)) for i in range(TENSORS - 77 * 9))


def write(folder):
    os.makedirs(folder)
    ends, states, stored, planner = [0] * FILES, {}, {}, {}
    for number, (name, shape) in enumerate(shapes()):
        rows = shape[0] // RANKS
        extent = (rows, *shape[1:])
        n_bytes = 2 * rows * (shape[1] if len(shape) > 1 else 1) + 1200
        chunks = []
        for rank in range(RANKS):
            start = (rank * rows, *(0 for _ in shape[1:]))
            chunks.append(make(Chunk, offsets=Size(start), sizes=Size(extent)))
            file = (rank * 10 + number % 10) % FILES
            # Each rank sends its own copy of the name.
            index = make(Index, fqn="".join(list("model." + name)), offset=Size(start), index=rank)
            stored[index] = make(StorageInfo, relative_path=f"__{file // 10}_{file % 10}.distcp", offset=ends[file], length=n_bytes)
            ends[file] += n_bytes
        states["model." + name] = make(TensorStorage, properties=Properties(), size=Size(shape), chunks=chunks)
        planner["model." + name] = ("model", name)
    for file, end in enumerate(ends):
        with open(os.path.join(folder, f"__{file // 10}_{file % 10}.distcp"), "wb") as out:
            out.truncate(end)
    meta = make(StorageMeta, checkpoint_id=folder, save_id=os.path.basename(folder), load_id=None, modules=[])
    with open(os.path.join(folder, ".metadata"), "wb") as out:
        pickle.dump(make(Metadata, state_dict_metadata=states, planner_data=planner, storage_data=stored, storage_meta=meta, version="1.0.0"), out)


def write_apart(folder):
    """Writes in another process: a command's peak memory begins with the size of the program that starts it."""
    child = os.fork()
    if child == 0:
        write(folder)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, folder


def timed(command):
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    print(f"{' '.join(command[1:2])}: {time.perf_counter() - started:.2f} s, peak {usage.ru_maxrss / 1024:.0f} MiB")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--program", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--n", type=int, default=20)
    a = ap.parse_args()
    for step in range(1, a.n + 1):
        folder = os.path.join(a.out, f"step-{1000 * step}")
        if not os.path.exists(folder):
            write_apart(folder)
    print(f".metadata has {os.path.getsize(os.path.join(a.out, 'step-1000', '.metadata')) / 1e6:.1f} MB")
    for _ in range(3):
        timed([a.program, "inspect", os.path.join(a.out, "step-1000"), "-q"])
        timed([a.program, "plan", a.out, "--last", str(a.n), "-q"])


if __name__ == "__main__":
    main()
