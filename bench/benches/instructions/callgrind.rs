//! Speaks to callgrind from inside of the program that it watches: count from here, stop, write down. What is set up before is not counted and
//! runs faster. Outside of valgrind it does nothing.
//!
//! # Source
//! `valgrind.h`: a request is an array of its number and five arguments whose address is in RAX, the default answer is in RDX, and four
//! rotations of RDI by 128 bits together before an exchange of RBX with itself tell valgrind to look. `callgrind.h`: the numbers, from
//! `'C' 'T'` on. The crates that wrap the two headers generate their bindings from them at build time and need libclang for it.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "no compiler emits what valgrind listens to"))]

use std::ffi::CString;

use tern_bench::Meter;

/// What callgrind understands.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
enum Request {
    ZeroStats = BASE + 1,
    DumpStatsAt = BASE + 3,
    StartInstrumentation = BASE + 4,
    StopInstrumentation = BASE + 5,
}

const BASE: usize = (b'C' as usize) << 24 | (b'T' as usize) << 16;

/// Counts instructions.
#[derive(Debug)]
pub(crate) struct Callgrind;

impl Meter for Callgrind {
    fn measure(&mut self, work: &mut dyn FnMut()) {
        send(Request::StartInstrumentation, 0);
        work();
        send(Request::StopInstrumentation, 0);
    }
}

/// Has written down what was counted since the last time, under a name.
pub(crate) fn write_down(name: &str) {
    let name = CString::new(name).expect("names have no zeros");
    send(Request::DumpStatsAt, name.as_ptr().expose_provenance());
    send(Request::ZeroStats, 0);
}

#[cfg(target_arch = "x86_64")]
fn send(request: Request, argument: usize) {
    let message = [request as usize, argument, 0, 0, 0, 0];
    // SAFETY: on a processor these instructions leave every register and the memory as they were. Under valgrind they hand it `message`,
    // which outlives them and which it reads and does not keep, and set RDX to its answer, which is declared as lost.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") message.as_ptr(),
            inout("rdx") 0usize => _,
            options(nostack),
        );
    }
}

/// Elsewhere the array goes through other registers: nothing is counted there.
#[cfg(not(target_arch = "x86_64"))]
fn send(_request: Request, _argument: usize) {}
