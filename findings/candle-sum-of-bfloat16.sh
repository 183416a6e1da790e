#!/usr/bin/env bash
# candle-core 0.11.1, CPU: the mean of a thousand ones is 0.256 in bfloat16, and 1 in float16.
#
# Expected: sums of both 16-bit types are taken in float32, or those of both are not.
# Observed: float16 is right, and bfloat16 is summed in bfloat16, where 256 + 1 is 256: `sum`, `sum_all`, `mean` and `mean_all` stop
# there along every axis. `cumsum` and `matmul` of the same tensor are right. Statistics of bfloat16 weights are wrong without
# a sign of it; `to_dtype(DType::F32)` first is right. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name sums
cargo add --quiet candle-core@0.11.1
cargo update --quiet candle-core --precise 0.11.1
cat > src/main.rs <<'RUST'
use candle_core::{DType, Device, Result, Tensor};

fn first(tensor: &Tensor) -> Result<f32> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.get(0)?.to_scalar()
}

fn main() -> Result<()> {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let ones = Tensor::ones((1000, 2), DType::F32, &Device::Cpu)?.to_dtype(dtype)?;
        let across = ones.t()?.contiguous()?;
        println!(
            "{dtype:?}: sum {} and {}, mean {}, last of cumsum {}, by matmul {}",
            first(&ones.sum(0)?)?,
            first(&across.sum(1)?)?,
            first(&ones.mean(0)?)?,
            first(&ones.cumsum(0)?.get(999)?)?,
            first(&across.matmul(&ones)?)?
        );
    }
    Ok(())
}
RUST
cargo install --quiet --locked --debug --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/sums" > seen
cat seen
diff - seen << 'SEEN' || { echo "changed: the sums are other numbers now" >&2 && exit 1; }
F32: sum 1000 and 1000, mean 1, last of cumsum 1000, by matmul 1000
F16: sum 1000 and 1000, mean 1, last of cumsum 1000, by matmul 1000
BF16: sum 256 and 256, mean 0.25585938, last of cumsum 1000, by matmul 1000
SEEN
