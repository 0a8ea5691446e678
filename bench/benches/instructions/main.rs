//! Counts the instructions of every hot path under callgrind, which writes the counts; this prints what they are for: what the processor can
//! do as the program sees it, and for each path how many iterations were counted. `cargo xtask bench-check` runs it and compares.
//! Outside of valgrind it only runs every path.

mod callgrind;

use callgrind::Callgrind;
use tern_bench::paths;

/// The server's own: its instructions are a part of every path.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(clippy::print_stdout, reason = "read by the command that runs this")]
fn main() {
    // Words of cargo's own begin with a dash.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!("processor {}", processor());
    for path in paths::all() {
        if !wanted.is_empty() && !wanted.iter().any(|part| path.name.contains(part.as_str())) {
            continue;
        }
        let mut round = path.set_up();
        for _ in 0..path.rounds {
            round(&mut Callgrind);
        }
        callgrind::write_down(path.name);
        let kind = if path.has_crypto { "crypto" } else { "plain" };
        println!("path {} {} {kind} {}", path.name, path.count * path.rounds, path.iteration);
    }
}

/// What chooses between ways to encrypt and to hash, and exists here: under valgrind that is less than the processor has.
fn processor() -> String {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let known = [
            ("ssse3", has!("ssse3")),
            ("aes", has!("aes")),
            ("pclmulqdq", has!("pclmulqdq")),
            ("avx", has!("avx")),
            ("avx2", has!("avx2")),
            ("bmi2", has!("bmi2")),
            ("adx", has!("adx")),
            ("sha", has!("sha")),
            ("vaes", has!("vaes")),
            ("vpclmulqdq", has!("vpclmulqdq")),
            ("avx512f", has!("avx512f")),
        ];
        features.extend(known.iter().filter(|(_, has)| *has).map(|(name, _)| *name));
    }
    features.join(",")
}
