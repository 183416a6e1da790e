#!/usr/bin/env bash
# cargo 1.95: `strip = true` of a profile does not reach a package for which the profile has separate settings.
#
# Expected: `[profile.release.package.NAME]` overrides what it names, here the optimization level, and inherits the rest.
# Observed: the level is overridden, and `strip` falls back from "symbols" to the default, "debuginfo". If the package is the
# program, it keeps its symbols: thalweg's grew from 27 to 35 MB. With `strip = true` repeated there, it is stripped. The
# script fails when this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
echo 'fn main() {}' > src/main.rs
strip_of() { # LINES OF THE PACKAGE'S SETTINGS: what rustc is told for the program
    cat > Cargo.toml <<TOML
[package]
name = "finding"
version = "0.1.0"
edition = "2024"
[workspace]
[profile.release]
strip = true
$1
TOML
    # Cargo shows its commands for what it compiles only.
    rm -rf target
    cargo build --release --verbose 2>&1 | grep -o 'strip=[a-z]*'
}
own='[profile.release.package.finding]'
found="without separate settings: $(strip_of "")
with a separate level: $(strip_of "$own
opt-level = 2")
with the level and strip: $(strip_of "$own
opt-level = 2
strip = true")"
echo "$found"
diff <(echo "$found") - <<'SEEN'
without separate settings: strip=symbols
with a separate level: strip=debuginfo
with the level and strip: strip=symbols
SEEN
