//! The report from real histograms: that programs find every field, that plotters can read the histograms, and that people are told what
//! must not be overlooked. With `TERN_PERF_EXAMPLE=DIR` the example is written there, to be looked at.

use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tern_perf::measure::{Machine, Pressure, ThreadUse, UdpDrops};
use tern_perf::report::{self, ClientUse, Line, Outcome, Plot, ServerUse, Verdict, Wire};

/// Latencies of a log-normal shape with a tail, by a fixed generator of numbers: the same in every run.
fn times(median_us: f64, spread: f64, count: u64, seed: u64) -> Histogram<u64> {
    let mut times = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds");
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    for _ in 0..count {
        let normal = (-2.0 * uniform().max(1e-12).ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
        let stall = if uniform() < 0.002 { 20.0 } else { 1.0 };
        let nanos = median_us * 1e3 * (normal * spread).exp() * stall;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few milliseconds")]
        times.saturating_record(nanos as u64);
    }
    times
}

fn line(name: &str, points: impl Iterator<Item = (f64, f64)>) -> Line {
    Line { name: name.to_owned(), points: points.collect() }
}

fn plot(title: &str, labels: (&str, &str), logs: (bool, bool), lines: Vec<Line>) -> Plot {
    let (x_label, y_label) = (labels.0.to_owned(), labels.1.to_owned());
    Plot { title: title.to_owned(), x_label, y_label, log_x: logs.0, log_y: logs.1, lines }
}

fn server() -> ServerUse {
    let threads = [("shard", 2, 6.9), ("journal", 1, 1.1), ("tokio-runtime-worker", 2, 0.04)];
    ServerUse {
        cpu_seconds: 8.04,
        rss_bytes: 61_000_000,
        rss_peak_bytes: 66_000_000,
        rss_bytes_per_connection: Some(21_300.0),
        cpu_us_per_delivery: Some(13.4),
        switches_voluntary: 48_211,
        switches_involuntary: 903,
        minor_faults: 12_000,
        disk_read_bytes: 0,
        disk_written_bytes: 240_000_000,
        udp_drops: UdpDrops { receive_buffer: 0, send_buffer: 0, server_port: 0 },
        threads: threads
            .map(|(name, threads, cpu_seconds)| ThreadUse { name: name.to_owned(), threads, cpu_seconds })
            .to_vec(),
    }
}

fn quiet() -> Pressure {
    Pressure {
        seconds: 10.0,
        some_before_percent: Some(0.6),
        some_percent: Some(4.2),
        others_percent: 1.3,
        own_percent: 61.0,
        ..Pressure::default()
    }
}

/// A clean run of direct messages.
fn direct() -> Outcome {
    let mut outcome = Outcome::new("direct", "Durable direct messages: how many, and how long each takes", "quic");
    outcome.command = "tern-perf direct --spawn --connections 400 --rate 6000 --duration 10s".to_owned();
    outcome.config =
        [("connections", json!(400)), ("rate", json!(6000.0)), ("seed", json!(1)), ("driver", json!("io_uring"))]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    outcome.latency = [
        ("send_to_ack", times(310.0, 0.25, 60_000, 1)),
        ("send_to_delivery", times(352.0, 0.28, 60_000, 2)),
        ("lateness", times(12.0, 0.6, 60_000, 3)),
        ("resume", Histogram::new(3).expect("digits")),
    ]
    .map(|(name, times)| (name.to_owned(), times))
    .into();
    (outcome.delivered, outcome.expected) = (600_000, 600_000);
    outcome.errors = [("rejected: too many requests".to_owned(), 12)].into();
    outcome.server = Some(server());
    outcome.client = ClientUse { cpu_seconds: 6.2, rss_bytes: 88_000_000, lateness_p99_us: 41.0, bottleneck: None };
    outcome.wire = Wire {
        payload_bytes: 200,
        bytes_in: 151_200_000,
        bytes_out: 31_000_000,
        datagrams_in: 610_000,
        datagrams_out: 402_000,
    };
    outcome.floor = [
        ("fdatasync_p50_us", 213.0),
        ("udp_round_trip_p50_us", 40.1),
        ("aead_seal_cold_ns", 136.0),
        ("udp_send_ns", 2_960.0),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    outcome.ratio_to_floor = Some(1.22);
    outcome.ratio_what = "send to ack, p50 / median fdatasync + two loopback trips".to_owned();
    outcome.figure("acked_per_second", 5_998.7, "1/s", "messages acknowledged in the measured time");
    outcome.figure("saturation", 41_300.0, "1/s", "most messages that were acknowledged in a second");
    outcome.figure("server_cpu_us_per_message", 26.8, "us", "server CPU for one message, ack and delivery included");
    let seconds = || (0..10).map(f64::from);
    outcome.series = vec![
        plot(
            "Deliveries over time",
            ("second", "per second"),
            (false, false),
            vec![line("delivered", seconds().map(|s| (s, 5_990.0 + s * 3.0)))],
        ),
        plot(
            "Send to delivery over time",
            ("second", "milliseconds"),
            (false, false),
            vec![
                line("p50", seconds().map(|s| (s, 0.35 + s * 0.001))),
                line("p99", seconds().map(|s| (s, 0.7 + (s * 1.7).sin().abs() * 0.4))),
            ],
        ),
        plot(
            "Send to ack by intended rate",
            ("intended, messages/s", "99th percentile, ms"),
            (false, true),
            vec![line("p99", (1..12).map(|n| (f64::from(n) * 4_000.0, 0.5 * 1.5_f64.powi(n))))],
        ),
    ];
    outcome.notes = vec!["The server and the generator shared two cores.".to_owned()];
    outcome.pressure = quiet();
    outcome
}

/// A run on a busy machine.
fn void() -> Outcome {
    let mut outcome = Outcome::new("idle", "10,000 idle connections: server memory and CPU of each", "ws");
    outcome.server = Some(ServerUse { cpu_us_per_delivery: None, ..server() });
    outcome.figure("cores_per_million", 0.41, "cores", "server CPU that a million such connections would take");
    let memory =
        |each: f64| (0..6_u32).map(move |step| (f64::from(step) * 2_000.0, 22.0 + f64::from(step) * 2.0 * each));
    let lines = vec![line("QUIC", memory(21.3)), line("WebSocket", memory(12.1))];
    outcome.series =
        vec![plot("Server memory by connections", ("connections", "server RSS, MB"), (false, false), lines)];
    let reasons = vec!["43 % of the machine's CPU went to other processes during the run (limit 20 %)".to_owned()];
    outcome.pressure = Pressure { others_percent: 43.0, void: true, reasons, ..quiet() };
    outcome
}

/// A run in which a message was lost, with names that are not kind to HTML.
fn unclean() -> Outcome {
    let mut outcome =
        Outcome::new("group", "One group of 10,000 <members> & \"friends\": from send to every screen", "both");
    outcome.latency = [("send_to_delivery".to_owned(), times(48_000.0, 0.4, 30_000, 4))].into();
    (outcome.delivered, outcome.expected, outcome.lost) = (999_999, 1_000_000, 1);
    outcome.errors = [("closed by the server: <script>alert(1)</script>".to_owned(), 3)].into();
    outcome.failures = vec!["did not settle in 60 s: peer_7 & others wait for seq_<9>".to_owned()];
    outcome.client.bottleneck = Some("the generator's threads slept only 0.4 % of the time".to_owned());
    outcome.notes = vec!["a < b && c > d".to_owned()];
    let growth: [f64; 4] = [100.0, 1_000.0, 10_000.0, 50_000.0];
    let lines = vec![
        line("everybody <online>", growth.iter().map(|n| (*n, 11.0 + n.log10()))),
        line("90 % offline", growth.iter().map(|n| (*n, 10.6 + n.log10() * 0.8))),
    ];
    outcome.series = vec![plot("CPU by members & friends", ("members", "µs per delivery"), (true, false), lines)];
    outcome.pressure = quiet();
    outcome
}

struct Example {
    _scratch: tempfile::TempDir,
    directory: PathBuf,
}

impl Example {
    fn new(outcomes: &[Outcome]) -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let directory = scratch.path().join("results/of the run");
        let report = report::write_folder(&directory, &Machine::read(), outcomes).expect("written");
        assert_eq!(report, directory.join("report.html"));
        Self { _scratch: scratch, directory }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn all() -> Vec<Outcome> {
    vec![direct(), void(), unclean()]
}

#[test]
fn an_example_can_be_looked_at() {
    let Some(directory) = std::env::var_os("TERN_PERF_EXAMPLE") else { return };
    let report = report::write_folder(Path::new(&directory), &Machine::read(), &all()).unwrap();
    assert!(report.exists());
    report::print_table(&all());
    report::print_table(&[direct()]);
    report::diff(Path::new(&directory), Path::new(&directory)).unwrap();
}

#[test]
fn json_has_every_field_that_comparisons_rely_on() {
    let machine = Machine::read();
    let object = report::to_json(&machine, &direct());
    let fields = [
        "/scenario",
        "/commit",
        "/machine/cpu",
        "/machine/kernel",
        "/machine/cores",
        "/config/seed",
        "/latency_us/send_to_ack/p50",
        "/latency_us/send_to_ack/p90",
        "/latency_us/send_to_ack/p99",
        "/latency_us/send_to_ack/p999",
        "/latency_us/send_to_ack/max",
        "/latency_us/send_to_ack/mean",
        "/latency_us/send_to_ack/stddev",
        "/latency_us/send_to_ack/count",
        "/latency_us/send_to_delivery/p999",
        "/delivered",
        "/expected",
        "/lost",
        "/duplicated",
        "/reordered",
        "/corrupt",
        "/server/cpu_seconds",
        "/server/rss_bytes",
        "/server/rss_bytes_per_connection",
        "/server/cpu_us_per_delivery",
        "/server/udp_drops/server_port",
        "/client/cpu_seconds",
        "/client/lateness_p99_us",
        "/floor/fdatasync_p50_us",
        "/ratio_to_floor",
        "/wire/payload_bytes",
        "/wire/bytes_per_delivery",
        "/wire/datagrams_per_delivery",
        "/errors",
        "/notes/0",
        "/void",
        "/pressure/some_percent",
        "/pressure/steal_percent",
        "/figures/acked_per_second/value",
        "/figures/acked_per_second/unit",
        "/series/0/lines/0/points",
        "/verdict",
        "/command",
    ];
    for field in fields {
        let value = object.pointer(field).unwrap_or_else(|| panic!("{field} is missing"));
        assert!(!value.is_null(), "{field} is null");
    }
    assert_eq!(object["commit"], machine.commit);
    assert_eq!(object["latency_us"]["send_to_ack"]["count"], 60_000);
    // Microseconds of what was recorded in nanoseconds.
    let recorded = direct().latency["send_to_ack"].value_at_quantile(0.99) as f64 / 1e3;
    assert_eq!(object["latency_us"]["send_to_ack"]["p99"].as_f64(), Some(recorded));
    assert!((310.0 - object["latency_us"]["send_to_ack"]["p50"].as_f64().unwrap()).abs() < 15.0);
}

#[test]
fn one_outcome_is_one_object_and_several_are_named() {
    let example = Example::new(&[direct()]);
    let one: Value = serde_json::from_str(&example.read("result.json")).unwrap();
    assert_eq!((one["scenario"].as_str(), one["name"].as_str()), (Some("direct"), Some("direct")));
    let example = Example::new(&[direct(), void(), direct()]);
    let several: Value = serde_json::from_str(&example.read("result.json")).unwrap();
    let names: Vec<_> =
        several["outcomes"].as_array().unwrap().iter().map(|outcome| outcome["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["direct-quic-1", "idle", "direct-quic-2"]);
    assert_eq!(
        (several["verdict"].as_str(), several["commit"] == several["outcomes"][0]["commit"]),
        (Some("void"), true)
    );
}

#[test]
fn hgrm_reads_back_and_ends_at_the_maximum() {
    let example = Example::new(&[direct()]);
    let text = example.read("direct-send_to_ack.hgrm");
    let recorded = &direct().latency["send_to_ack"];
    let mut lines = text.lines();
    let heads: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heads, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
    assert_eq!(lines.next(), Some(""));
    let (body, footer): (Vec<&str>, Vec<&str>) = lines.partition(|line| !line.starts_with('#'));
    let rows: Vec<Vec<f64>> =
        body.iter().map(|row| row.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect();
    assert!(rows.len() > 40 && rows.windows(2).all(|pair| pair[0][0] <= pair[1][0] && pair[0][2] <= pair[1][2]));
    let close = |a: f64, b: f64| (a - b).abs() < 0.001;
    for row in &rows[..rows.len() - 1] {
        // Both stand at a fixed number of digits, so the last ones of the distance are lost in the percentile.
        assert!(row.len() == 4 && (row[3] * (1.0 - row[1]) - 1.0).abs() < 0.01, "{row:?}");
        let exact = recorded.value_at_quantile(row[1]) as f64 / 1e3;
        assert!((row[0] - exact).abs() <= exact * 0.002, "{row:?}: {exact}");
    }
    let last = rows.last().unwrap();
    assert!(
        last.len() == 3
            && close(last[0], recorded.max() as f64 / 1e3)
            && close(last[1], 1.0)
            && close(last[2], 60_000.0)
    );
    assert!(footer[0].starts_with("#[Mean    =") && footer[0].contains("StdDeviation"));
    assert!(footer[1].starts_with("#[Max     =") && footer[1].contains("60000"));
    assert!(footer[2].starts_with("#[Buckets =") && footer.len() == 3);
    assert!(!example.directory.join("direct-resume.hgrm").exists(), "a latency that nothing was recorded for");
    assert!(
        example
            .read("direct-deliveries-over-time.csv")
            .starts_with("line,\"second\",\"per second\"\n\"delivered\",0,5990\n")
    );
}

/// Elements that have no end.
const VOID_ELEMENTS: [&str; 3] = ["meta", "br", "hr"];

/// Every element is closed, by its own end, in order; returns the names of all.
fn well_formed(html: &str) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    let mut seen = Vec::new();
    let mut rest = html.strip_prefix("<!DOCTYPE html>").expect("a document type");
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').expect("a tag without an end");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "a < within a tag: {tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in the wrong order");
        } else if !tag.starts_with('!') {
            let name = tag.split([' ', '\n']).next().unwrap_or_default().trim_end_matches('/').to_owned();
            if !tag.ends_with('/') && !VOID_ELEMENTS.contains(&name.as_str()) {
                open.push(name.clone());
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
            seen.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    seen
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    let html = Example::new(&all()).read("report.html");
    let elements = well_formed(&html);
    assert!(elements.iter().filter(|name| *name == "svg").count() >= 7, "plots");
    for foreign in ["script", "link", "img", "iframe", "object", "embed", "base"] {
        assert!(!elements.iter().any(|name| name == foreign), "<{foreign}>");
    }
    assert_eq!(
        html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "").matches("://").count(),
        0,
        "it fetches something"
    );
    assert!(!html.contains("@import") && !html.contains("url("), "the style sheet fetches something");
    assert!(html.contains("prefers-color-scheme: dark") && html.contains("width=device-width"));
}

#[test]
fn text_is_never_markup() {
    let outcomes = [unclean()];
    let html = Example::new(&outcomes).read("report.html");
    assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(html.contains("10,000 &lt;members&gt; &amp; &quot;friends&quot;"));
    assert!(html.contains("everybody &lt;online&gt;") && html.contains("CPU by members &amp; friends"));
    assert!(html.contains("a &lt; b &amp;&amp; c &gt; d") && html.contains("seq_&lt;9&gt;"));
    assert!(!html.contains("&amp;lt;"), "escaped twice");
}

#[test]
fn a_void_run_says_so_everywhere() {
    let outcomes = [void()];
    assert_eq!((outcomes[0].verdict(), outcomes[0].is_clean()), (Verdict::Void, true));
    let example = Example::new(&outcomes);
    let html = example.read("report.html");
    assert!(
        html.contains("<header class=\"void\">")
            && html.contains(">VOID<")
            && html.contains("43 % of the machine&#39;s CPU")
    );
    assert!(!html.contains(">CLEAN<"));
    for text in [report::text(&outcomes), example.read("summary.md")] {
        assert!(text.contains("VOID") && text.contains("43 %"), "{text}");
    }
    let json: Value = serde_json::from_str(&example.read("result.json")).unwrap();
    assert_eq!((&json["void"], &json["verdict"], &json["clean"]), (&json!(true), &json!("void"), &json!(true)));
}

#[test]
fn any_broken_message_makes_a_run_unclean() {
    assert!(direct().is_clean() && direct().verdict() == Verdict::Clean);
    let breaks: [fn(&mut Outcome); 6] = [
        |outcome| outcome.lost = 1,
        |outcome| outcome.duplicated = 1,
        |outcome| outcome.reordered = 1,
        |outcome| outcome.corrupt = 1,
        |outcome| outcome.delivered -= 1,
        |outcome| outcome.failures.push("it did not settle".to_owned()),
    ];
    for broken in breaks {
        let mut outcome = direct();
        broken(&mut outcome);
        assert!(!outcome.is_clean() && outcome.complaints().len() == 1, "{:?}", outcome.complaints());
        outcome.pressure.void = true;
        assert_eq!(outcome.verdict(), Verdict::NotClean, "a busy machine is no excuse");
        assert!(report::text(&[outcome]).contains("NOT CLEAN"));
    }
    let html = Example::new(&[direct(), unclean()]).read("report.html");
    assert!(html.contains("<header class=\"unclean\">") && html.contains("1 lost: acknowledged"));
    assert!(html.contains(">NOT CLEAN<") && html.contains(">CLEAN<"));
}

#[test]
fn a_comparison_finds_what_changed_and_what_is_doubtful() {
    let machine = Machine::read();
    let mut slower = direct();
    slower.latency.insert("send_to_ack".to_owned(), times(620.0, 0.25, 60_000, 1));
    slower.server.as_mut().unwrap().cpu_us_per_delivery = Some(26.8);
    let (before, after) =
        (report::to_json_all(&machine, &[direct(), void()]), report::to_json_all(&machine, &[slower, void()]));
    let changes = report::changes(&before, &after);
    let ratio =
        |name: &str| changes.iter().find(|change| change.outcome == "direct" && change.name == name).unwrap().ratio();
    assert!((ratio("send to ack p50") - 2.0).abs() < 0.02 && (ratio("send to delivery p99") - 1.0).abs() < 1e-9);
    assert!((ratio("server cpu us per delivery") - 2.0).abs() < 1e-9 && (ratio("ratio to floor") - 1.0).abs() < 1e-9);
    assert!(changes.iter().all(|change| change.doubtful == (change.outcome == "idle")));
    assert!(report::diff(Path::new("/nowhere"), Path::new("/nowhere")).is_err());
}

#[test]
fn an_empty_run_is_a_page_too() {
    let nothing = [Outcome::new("floor", "", "none")];
    well_formed(&Example::new(&nothing).read("report.html"));
    assert!(report::text(&nothing).contains("CLEAN"));
}
