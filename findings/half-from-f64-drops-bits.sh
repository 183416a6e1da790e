#!/usr/bin/env bash
# half 2.7.1: `from_f64` rounds a number to another bfloat16 or float16 than `from_f32` does, and to the wrong one.
#
# Expected: a number that both float32 and float64 hold exactly is rounded to the same nearest value by both functions.
# Observed: `from_f64` ignores the lower 32 bits of the number, also when they decide between two neighbours. A float32 just above the
# middle of two is taken for the middle and goes to the even one: 1.0039065 gives 1 by `from_f64` and 1.0078125 by `from_f32`, which
# is right. For float16 the software path does the same, so `from_f64` depends on the processor, but `from_f64_const` does not.
# For a sum in float64, `bf16::from_f32(x as f32)` is wrong less often. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name rounding
cargo add --quiet half@=2.7.1
cargo generate-lockfile --quiet
cat > src/main.rs <<'RUST'
use half::{bf16, f16};

fn main() {
    let above_bf16 = 1.0 + 2f32.powi(-8) + 2f32.powi(-22); // the middle of 1 and 1.0078125, and a hair
    let above_f16 = 1.0 + 2f32.powi(-11) + 2f32.powi(-22); // the middle of 1 and 1.0009765625, and a hair
    println!("bfloat16 of {above_bf16}: {} by from_f32, {} by from_f64", bf16::from_f32(above_bf16), bf16::from_f64(f64::from(above_bf16)));
    println!("float16 of {above_f16}: {} by from_f32, {} by from_f64_const", f16::from_f32(above_f16), f16::from_f64_const(f64::from(above_f16)));
    // Every float32 from 1 to 2, against the nearest of both neighbours in exact arithmetic.
    let (mut by_f32, mut by_f64) = (0, 0);
    for bits in 1f32.to_bits()..2f32.to_bits() {
        let value = f32::from_bits(bits);
        let (below, rest) = (bits >> 16, bits & 0xffff);
        let up = rest > 0x8000 || (rest == 0x8000 && below & 1 == 1);
        let right = u16::try_from(below + u32::from(up)).unwrap();
        by_f32 += u32::from(bf16::from_f32(value).to_bits() != right);
        by_f64 += u32::from(bf16::from_f64(f64::from(value)).to_bits() != right);
    }
    println!("wrong of all float32 from 1 to 2: {by_f32} by from_f32, {by_f64} by from_f64");
}
RUST
cargo install --quiet --locked --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/rounding" > seen
cat seen
cat > expected << 'SEEN'
bfloat16 of 1.0039065: 1.0078125 by from_f32, 1 by from_f64
float16 of 1.0004885: 1.0009766 by from_f32, 1 by from_f64_const
wrong of all float32 from 1 to 2: 0 by from_f32, 448 by from_f64
SEEN
if ! diff expected seen; then
    echo "changed: from_f64 rounds otherwise now" >&2
    exit 1
fi
