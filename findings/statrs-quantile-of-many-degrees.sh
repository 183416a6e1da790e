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
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "quantiles"
version = "0.0.0"
edition = "2021"
[dependencies]
statrs = { version = "=0.19.1", default-features = false, features = ["std"] }
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use statrs::distribution::{ContinuousCDF, StudentsT};

fn expansion(z: f64, n: f64) -> f64 {
    let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n);
    z + (z.powi(3) + z) / (4.0 * n) + second
}

fn main() {
    let mut errors = Vec::new();
    for n in [1e3, 1e4, 5e4, 1e6] {
        let t = StudentsT::new(0.0, 1.0, n).unwrap();
        let found = t.inverse_cdf(0.975);
        let expected = expansion(1.959_963_984_540_054, n);
        println!("{n:>9} degrees: {found:.9}, expansion {expected:.9}, cdf of the latter {:.12}", t.cdf(expected));
        errors.push((found - expected).abs());
        assert!((t.cdf(expected) - 0.975).abs() < 1e-9, "the distribution itself is right");
    }
    assert!(errors[0] < 1e-7, "right at 1,000 degrees");
    assert!(errors[2] > 1e-7 && errors[3] > 1e-6, "the inverse has become exact: {errors:?}");
    println!("the inverse is off by {:.1e} at 50,000 degrees and by {:.1e} at a million", errors[2], errors[3]);
}
RUST
cd "$folder"
cargo run --quiet --release
