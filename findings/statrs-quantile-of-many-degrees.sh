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
cd "$folder"
export CARGO_HOME="$folder/packages" # what is installed and compiled goes to the folder
cargo init --quiet --vcs none --name quantiles
cargo add --quiet statrs@=0.19.1 --no-default-features --features std
cargo update --quiet approx --precise 0.5.1 # which statrs uses
cargo update --quiet num-traits --precise 0.2.19
cat > src/main.rs <<'RUST'
use statrs::distribution::{ContinuousCDF, StudentsT};

fn main() {
    // Degrees, and the quantile that is right (Abramowitz and Stegun 26.7.5, three terms).
    for (degrees, right) in [(1e4, 1.960_201_240), (5e4, 1.960_011_431), (1e6, 1.959_966_357)] {
        let t = StudentsT::new(0.0, 1.0, degrees).unwrap();
        println!("{degrees}: inverse_cdf(0.975) = {:.7}, cdf({right:.9}) = {:.8}", t.inverse_cdf(0.975), t.cdf(right));
    }
}
RUST
cargo install --quiet --locked --path . --root "$folder/installed" --target-dir "$folder/built"
"$folder/installed/bin/quantiles" > seen
cat seen
cat > expected << 'SEEN'
10000: inverse_cdf(0.975) = 1.9602012, cdf(1.960201240) = 0.97500000
50000: inverse_cdf(0.975) = 1.9600111, cdf(1.960011431) = 0.97500000
1000000: inverse_cdf(0.975) = 1.9598477, cdf(1.959966357) = 0.97500000
SEEN
if ! diff expected seen; then
    echo "changed: the quantiles are other numbers now" >&2
    exit 1
fi
