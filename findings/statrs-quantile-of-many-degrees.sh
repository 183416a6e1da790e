#!/usr/bin/env bash
# statrs 0.19.1: the inverse of Student's t loses digits with many degrees of freedom; the distribution itself does not.
#
# Expected: `inverse_cdf` approaches the normal quantile as the degrees grow.
# Observed: for 0.975 it is right to nine digits at 10,000 degrees, off by 3e-7 at 50,000, and at a million it is
# 1.959848 where 1.959966 is right: smaller than the normal quantile, which no quantile of t can be. `cdf` of the right
# value is 0.975 each time. Intervals over a million items become too narrow. The script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
# All packages are pinned and go to the folder, as does what is compiled of them.
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "quantiles"
version = "0.0.0"
edition = "2021"
[dependencies]
approx = "=0.5.1"
num-traits = "=0.2.19"
statrs = { version = "=0.19.1", default-features = false, features = ["std"] }
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use statrs::distribution::{ContinuousCDF, StudentsT};

fn main() {
    // Degrees, the quantile that is right (Abramowitz and Stegun 26.7.5, three terms), and the one that was seen.
    let seen = [
        (1e4, 1.960_201_240, 1.960_201_240),
        (5e4, 1.960_011_431, 1.960_011_121),
        (1e6, 1.959_966_357, 1.959_847_720),
    ];
    for (degrees, right, before) in seen {
        let t = StudentsT::new(0.0, 1.0, degrees).unwrap();
        let (found, share) = (t.inverse_cdf(0.975), t.cdf(right));
        println!("{degrees:>9} degrees: inverse_cdf(0.975) = {found:.9}; cdf({right:.9}) = {share:.9}");
        assert!((share - 0.975).abs() < 1e-9, "the distribution function was right");
        assert!((found - before).abs() < 5e-9, "the inverse was {before:.9}: it has changed");
    }
}
RUST
cd "$folder" # no settings of the caller's folder
export CARGO_HOME="$folder/packages"
cargo build --quiet --release --target-dir "$folder/built"
"$folder/built/release/quantiles"
