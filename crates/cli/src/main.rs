//! The `thalweg` program: arguments in, messages and exit code out.

fn main() {}
