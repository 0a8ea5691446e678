//! The readers of `/proc` against texts of the kernel's making, and the rule of the void mark.

use std::time::Duration;

use super::kernel::slab_bytes;
use super::machine::{civil, field, kib, open_files};
use super::pressure::{Look, percent_waited, waited_us};
use super::process::{ThreadSample, cpu_seconds, disk_bytes, minor_faults, schedstat_seconds, thread_of};
use super::udp::{port_drops, snmp, snmp6};
use super::*;

const STAT: &str =
    "7699 (a (b) c) R 7693 7693 5059 0 -1 4194304 99 0 0 0 1250 250 0 0 20 0 1 0 1180291 3133440 413 184467";
const PRESSURE: &str =
    "some avg10=11.32 avg60=21.29 avg300=8.95 total=2768303072\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
const MACHINE: &str = "cpu  1000 20 300 5000 100 7 9 40 0 0\ncpu0 500 10 150 2500 50 3 4 20 0 0\nintr 5\n";

#[test]
fn a_name_with_brackets_does_not_shift_the_fields_of_stat() {
    assert_eq!(cpu_seconds(STAT).unwrap().to_bits(), 15.0_f64.to_bits());
    assert_eq!(minor_faults(STAT), 99);
    assert!(cpu_seconds("7699 (tern) R 1").is_err());
}

#[test]
fn status_io_and_schedstat_are_read() {
    let status = "Name:\tshard-0\nVmRSS:\t   2048 kB\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
    assert_eq!(kib(status, "VmRSS"), 2048);
    let thread = thread_of(status, 0.5);
    assert_eq!((thread.name.as_str(), thread.switches_voluntary, thread.switches_involuntary), ("shard-0", 12, 3));
    assert_eq!(disk_bytes("rchar: 9\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n"), (4096, 8192));
    assert_eq!(schedstat_seconds("1500000000 50364 4"), Some(1.5));
    assert_eq!(schedstat_seconds("0 0 0"), None);
    assert_eq!(field("model name\t: A: B\n", "model name"), "A: B");
    assert_eq!(open_files("Max open files            1024                 524288               files\n"), "1024");
}

#[test]
fn threads_of_one_kind_are_one_line() {
    let thread =
        |name: &str, cpu_seconds| ThreadSample { name: name.to_owned(), cpu_seconds, ..ThreadSample::default() };
    let from = Sample { threads: [(1, thread("shard-0", 1.0))].into(), rss_bytes: 500, ..Sample::default() };
    let threads = [(1, thread("shard-0", 2.0)), (2, thread("shard-1", 3.0)), (3, thread("journal", 0.5))];
    let to = Sample { threads: threads.into(), cpu_seconds: 4.5, rss_bytes: 400, ..Sample::default() };
    let usage = to.since(&from);
    assert_eq!(usage.rss_growth_bytes, -100);
    assert_eq!(usage.threads.len(), 2);
    assert_eq!(usage.threads[0], ThreadUse { name: "shard".to_owned(), threads: 2, cpu_seconds: 4.0 });
    assert_eq!(usage.threads[1].name, "journal");
}

#[test]
fn the_own_process_is_measured() {
    let meter = ProcessMeter::own().unwrap();
    let mut sum = 0_u64;
    while meter.cpu_seconds().unwrap() <= 0.0 {
        sum = std::hint::black_box(sum.wrapping_add(1));
    }
    let usage = meter.usage().unwrap();
    assert!(
        usage.cpu_seconds > 0.0 && usage.rss_bytes > 100_000 && usage.rss_peak_bytes >= usage.rss_bytes,
        "{usage:?}"
    );
    assert!(!usage.threads.is_empty());
    assert_eq!(meter.rss().unwrap() % 1024, 0);
}

#[test]
fn drops_of_the_machine_and_of_one_port_are_told_apart() {
    let text = "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors\nUdp: 2332322 2473 41115 2443238 41 7\n\
                UdpLite: InDatagrams RcvbufErrors\nUdpLite: 0 99\n";
    assert_eq!((snmp(text, "RcvbufErrors"), snmp(text, "SndbufErrors"), snmp(text, "Nothing")), (41, 7, 0));
    assert_eq!(snmp6("Udp6InDatagrams 5\nUdp6RcvbufErrors                \t3\n", "Udp6RcvbufErrors"), 3);
    let sockets = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
        111: 0100007F:1D13 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 1 2 0000000000000000 12\n\
        112: 0100007F:1D13 00000000:0000 07 00000000:00000000 00:00000000 00000000  0 0 2 2 0000000000000000 30\n\
        113: 0100007F:0035 0100007F:1D13 07 00000000:00000000 00:00000000 00000000  0 0 3 2 0000000000000000 500\n";
    assert_eq!((port_drops(sockets, 0x1D13), port_drops(sockets, 53), port_drops(sockets, 1)), (42, 500, 0));
}

#[test]
fn pressure_is_the_share_of_the_run_in_which_some_task_waited() {
    assert_eq!(waited_us(PRESSURE), Some(2_768_303_072));
    assert_eq!(waited_us(""), None);
    assert_eq!(percent_waited(Some(1_000_000), Some(1_500_000), Duration::from_secs(5)), Some(10.0));
    assert_eq!(percent_waited(None, Some(1), Duration::from_secs(5)), None);
}

/// A run of ten seconds on two CPUs, 2,000 ticks: busy and stolen ticks, our CPU seconds, and the time some task waited.
fn judged(pace: Pace, before: f64, busy: u64, steal: u64, ours_seconds: f64, waited_us: u64) -> Pressure {
    let from = Look { waited_us: Some(0), busy: 0, steal: 0, all: 0, ours_seconds: 3.0 };
    let to = Look { waited_us: Some(waited_us), busy, steal, all: 2_000, ours_seconds: 3.0 + ours_seconds };
    Pressure::judge(pace, Some(before), &from, &to, Duration::from_secs(10))
}

#[test]
fn our_own_saturation_does_not_void_a_run_that_saturates() {
    let pressure = judged(Pace::Saturating, 1.0, 1_990, 0, 19.8, 9_000_000);
    assert!(!pressure.void && pressure.reasons.is_empty(), "{pressure:?}");
    assert!((pressure.some_percent.unwrap() - 90.0).abs() < 1e-9 && pressure.own_percent > 98.0);
    assert!((pressure.others_percent - 0.5).abs() < 1e-9, "{pressure:?}");
}

#[test]
fn the_same_pressure_voids_a_paced_run() {
    let pressure = judged(Pace::Paced, 1.0, 1_990, 0, 19.8, 9_000_000);
    assert!(pressure.void && pressure.reasons.len() == 1, "{pressure:?}");
    assert!(!judged(Pace::Paced, 1.0, 400, 0, 3.9, 1_900_000).void);
}

#[test]
fn neighbours_void_any_run() {
    for pace in [Pace::Paced, Pace::Saturating] {
        assert!(judged(pace, 20.5, 100, 0, 1.0, 0).void, "waited before");
        assert!(judged(pace, 0.0, 500, 0, 0.9, 0).void, "CPU of others");
        assert!(judged(pace, 0.0, 100, 401, 1.0, 0).void, "steal");
        assert!(!judged(pace, 20.0, 499, 400, 1.0, 2_000_000).void, "at the limits");
    }
}

#[test]
fn the_line_of_the_whole_machine_is_read() {
    let look = Look::parse(PRESSURE, MACHINE, 2.0).unwrap();
    assert_eq!((look.busy, look.steal, look.all), (1_320, 40, 6_476));
    assert_eq!(Look::parse(PRESSURE, "cpu0 1 2 3\n", 0.0), None);
    assert_eq!(Look::parse("", MACHINE, 0.0).unwrap().waited_us, None);
}

#[test]
fn memory_of_tcp_sockets_is_what_is_in_use() {
    let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
        tw_sock_TCP 128 208 256 16 1 : tunables\nTCP 10 130 2000 13 8 : tunables\nsock_inode_cache 20 247 800 19 4 : x\n";
    assert_eq!(slab_bytes(text), Some(36_000));
    assert_eq!(slab_bytes("slabinfo - version: 2.1\n"), None);
}

#[test]
fn days_become_dates() {
    assert_eq!(civil(0), (1970, 1, 1));
    assert_eq!(civil(11_016), (2000, 2, 29));
    assert_eq!(civil(20_757), (2026, 10, 31));
}

#[test]
fn this_machine_is_read() {
    let machine = Machine::read();
    assert!(machine.cores >= 1 && machine.memory_bytes > 1 << 20 && machine.unix_seconds > 1_600_000_000);
    assert_ne!(machine.kernel, "unknown");
    assert_eq!(machine.sysctls.len(), 5);
    assert!(machine.date().ends_with(" UTC"));
}
