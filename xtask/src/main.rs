//! `cargo xtask check`: the one command that says whether the tree is whole.

fn main() {}
