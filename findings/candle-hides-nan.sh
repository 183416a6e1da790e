#!/usr/bin/env bash
# candle-core 0.11.1, CPU: `relu` turns NaN into 0, and `max` of values with a NaN depends on where the NaN is.
#
# Expected: NaN in both, as in PyTorch, so that a model that diverged shows it.
# Observed: `relu` of NaN is 0, but `clamp` keeps NaN. `max` and `min` of [1, NaN, 3] ignore the NaN, and those of [NaN, 1, 3] are NaN.
# A forward pass through one relu makes finite numbers of NaN activations, and a check for NaN by `max` misses most.
# The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name nans
cargo add --quiet candle-core@=0.11.1
cargo generate-lockfile --quiet
cat > src/main.rs <<'RUST'
use candle_core::{Device, Result, Tensor};

fn main() -> Result<()> {
    for values in [[1.0, f32::NAN, 3.0], [f32::NAN, 1.0, 3.0]] {
        let tensor = Tensor::new(&values, &Device::Cpu)?;
        println!(
            "{values:?}: relu {:?}, clamp {:?}, max {}, min {}, sum {}",
            tensor.relu()?.to_vec1::<f32>()?,
            tensor.clamp(0f32, 9f32)?.to_vec1::<f32>()?,
            tensor.max(0)?.to_scalar::<f32>()?,
            tensor.min(0)?.to_scalar::<f32>()?,
            tensor.sum(0)?.to_scalar::<f32>()?
        );
    }
    Ok(())
}
RUST
cargo install --quiet --locked --debug --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/nans" > seen
cat seen
cat > expected << 'SEEN'
[1.0, NaN, 3.0]: relu [1.0, 0.0, 3.0], clamp [1.0, NaN, 3.0], max 3, min 1, sum NaN
[NaN, 1.0, 3.0]: relu [0.0, 1.0, 3.0], clamp [NaN, 1.0, 3.0], max NaN, min NaN, sum NaN
SEEN
if ! diff expected seen; then
    echo "changed: NaN is treated otherwise now" >&2
    exit 1
fi
