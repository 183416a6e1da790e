#!/usr/bin/env bash
# cargo and rustc 1.95, x86-64: with `lto = "fat"`, loops of a package at `opt-level = 3` are not made into vectors if the
# program's own package has "s".
#
# Expected: a package keeps the level that `[profile.release.package.NAME]` gives it.
# Observed: vectors are made in the step of link-time optimization, which runs at the level of the last package, and at "s"
# it makes none. The kernels of thalweg took 1.2 to 3.4 times as long. Without LTO, or with the program at 3, there are
# vectors. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir -p src sums/src
cat > sums/Cargo.toml <<'TOML'
[package]
name = "sums"
version = "0.1.0"
edition = "2024"
TOML
cat > sums/src/lib.rs <<'RUST'
#[inline(never)]
pub fn add(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}
RUST
cat > src/main.rs <<'RUST'
fn main() {
    let x: Vec<f32> = std::env::args().map(|text| text.len() as f32).collect();
    let mut out = x.clone();
    sums::add(&mut out, &x);
    println!("{out:?}");
}
RUST
n_vectors() { # PROGRAM'S LEVEL, LTO: additions of whole vectors in `add`
    cat > Cargo.toml <<TOML
[package]
name = "finding"
version = "0.1.0"
edition = "2024"
[dependencies]
sums = { path = "sums" }
[profile.release]
opt-level = $1
lto = $2
codegen-units = 1
[profile.release.package.sums]
opt-level = 3
TOML
    cargo build --release --quiet --offline
    objdump --disassemble --demangle target/release/finding | sed -n '/<sums::add>:/,/^$/p' | grep -c addps || true
}
without=$(n_vectors '"s"' false)
at_s=$(n_vectors '"s"' '"fat"')
at_3=$(n_vectors 3 '"fat"')
echo "additions of vectors: $without without LTO, $at_s with LTO at \"s\", $at_3 with LTO at 3"
[ "$without" -gt 0 ] && [ "$at_s" -eq 0 ] && [ "$at_3" -gt 0 ]
