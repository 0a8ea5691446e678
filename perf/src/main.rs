//! `tern-perf`: measures a Tern server from outside. Reads the command line, runs one scenario, writes what came of it.

fn main() {}
