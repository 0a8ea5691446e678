//! The binary `tern`.

fn main() {}
