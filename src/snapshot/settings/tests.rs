use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::{
    Balance, Fetched, Host, KeySource, Loaded, LogFormat, LogLevel, ManagedSecret, Mode, Presigned, RateSetting,
    Replay, Route, RouteIntent, Settings, SignSource, Stage, Unfetched, UpstreamMethod, Versions, reference,
};
use crate::config::{Colour, Problems};
use crate::governance::model::{Operator, RateLimits};

const SMALLEST: &str = include_str!("../../../conf/orbit.yaml");
const FULL: &str = include_str!("../../../conf/orbit.full.yaml");
const KEYS: &str = "- { access_key_id: AKID, secret_access_key: { env: A_SECRET }, principal: alice }\n";
const POLICIES: &str = include_str!("../../../conf/policies/default.json");

/// A directory with a valid key file and a valid policy.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("keys.yaml", KEYS);
        folder.write("policies/default.json", POLICIES);
        folder
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn load(&self, main: &str) -> Result<Loaded, Problems> {
        Settings::load(&self.write("orbit.yaml", main), &environment())
    }

    fn load_with(&self, main: &str, fetched: &Fetched) -> Result<Loaded, Problems> {
        Settings::load_with(&self.write("orbit.yaml", main), &environment(), fetched)
    }

    fn settings(&self, main: &str) -> Settings {
        self.load(main).unwrap_or_else(|problems| panic!("{problems}")).settings
    }

    /// The problems as `file:line:column message`, the file relative to the folder.
    fn problems(&self, main: &str) -> Vec<String> {
        let problems = self.load(main).unwrap_err();
        let file = |path: &Path| path.strip_prefix(self.0.path()).unwrap_or(path).display().to_string();
        problems.iter().map(|p| format!("{}:{}:{} {}", file(&p.file), p.line, p.column, p.message)).collect()
    }

    /// Asserts every problem of `main`, and no other: `line:column fragment`, or `file:line:column fragment`.
    fn check(&self, main: &str, expected: &[&str]) {
        let problems = self.problems(main);
        assert_eq!(problems.len(), expected.len(), "{main}\n{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            let (place, fragment) = expected.split_once(' ').unwrap();
            let place = if place.matches(':').count() == 1 { format!("orbit.yaml:{place}") } else { place.to_owned() };
            let (found_place, message) = problem.split_once(' ').unwrap();
            assert!(found_place == place && message.contains(fragment), "{main}\n{problem}\nis not {place} {fragment}");
        }
    }
}

fn environment() -> BTreeMap<String, String> {
    let variables = [("A_SECRET", "hunter2"), ("ORBIT_EXAMPLE_SECRET", "hunter2")];
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The smallest file with more lines; `block` begins at line 8.
fn with(block: &str) -> String {
    format!("{SMALLEST}{block}\n")
}

/// The smallest file with another upstream block; `lines`, indented by four, begin at line 9.
fn with_upstream(lines: &str) -> String {
    let endpoints = "  axon:\n    endpoints: [\"http://127.0.0.1:9000\"]\n";
    let main = SMALLEST.replace("  axon: { endpoints: [\"http://127.0.0.1:9000\"] }\n", "");
    assert_ne!(main, SMALLEST);
    lines.lines().fold(format!("{main}{endpoints}"), |main, line| format!("{main}    {line}\n"))
}

#[test]
fn the_samples_load() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for name in ["orbit.yaml", "orbit.full.yaml"] {
        let loaded = Settings::load(&conf.join(name), &environment()).unwrap();
        assert_eq!(loaded.settings.keys.len(), 1);
        assert_eq!(loaded.settings.policies.len(), 1);
        assert_eq!(loaded.files.first(), Some(&conf.join(name)));
        assert_eq!(loaded.files.len(), 3);
    }
}

#[test]
fn the_smallest_file_has_the_defaults_of_the_contract() {
    let settings = Folder::new().settings(SMALLEST);
    let seconds = Duration::from_secs;
    assert_eq!(settings.name, "orbit");
    assert_eq!(settings.listen.addresses, ["0.0.0.0:8080".parse().unwrap()]);
    assert_eq!((settings.listen.header_bytes, settings.listen.body_bytes), (16 << 10, 1 << 20));
    assert_eq!((settings.listen.header_timeout, settings.listen.body_timeout), (seconds(10), seconds(15)));
    assert_eq!(settings.listen.idle_timeout, seconds(75));
    assert_eq!((settings.listen.connections, settings.listen.in_flight), (20_000, 4096));
    assert_eq!((settings.drain.min, settings.drain.max), (seconds(10), seconds(60)));
    assert_eq!((settings.auth.regions, settings.auth.services), (vec!["us-east-1".into()], vec!["execute-api".into()]));
    assert_eq!(settings.auth.clock_skew, seconds(300));
    let minute = |count| RateSetting { count, per: seconds(60) };
    let per_ip = settings.limits.per_ip.unwrap();
    assert_eq!((per_ip.rate, per_ip.ipv6_prefix, per_ip.mode), (minute(100), 64, Mode::Enforce));
    assert_eq!(settings.limits.global.unwrap().rate, minute(1000));
    assert_eq!(settings.limits.governance.unwrap().rate, minute(100));
    let [upstream] = settings.upstreams.try_into().unwrap();
    assert_eq!((upstream.name.as_str(), settings.routes), ("axon", vec![]));
    assert_eq!((upstream.balance, upstream.resolve), (Balance::LeastLoaded, seconds(10)));
    assert_eq!((upstream.slow_start, upstream.health, upstream.eject), (seconds(10), None, None));
    assert_eq!((upstream.request.method, upstream.request.path.as_str()), (UpstreamMethod::Post, "/dispatch"));
    assert!(upstream.sign.is_none());
    assert_eq!((upstream.envelope_bytes, upstream.keepalive), (1 << 20, 128));
    let timeouts = upstream.timeouts;
    assert_eq!((timeouts.connect, timeouts.first_byte), (seconds(1), seconds(30)));
    assert_eq!((timeouts.idle, timeouts.total), (seconds(60), seconds(60)));
    let logs = settings.observability.logs;
    assert_eq!((logs.format, logs.level, logs.requests), (LogFormat::Text, LogLevel::Info, true));
    assert!(settings.observability.metrics.on_main);
    assert_eq!(settings.runtime.threads, None);
    assert_eq!(settings.keys[0].secret_access_key.expose_secret(), "hunter2");
}

/// `FULL` as (indentation, key) of each line that has one.
fn full_keys() -> Vec<(usize, usize, String)> {
    let key = |line: &str| {
        let trimmed = line.trim_start();
        let name = trimmed.split_once(':')?.0;
        (!trimmed.starts_with('#')).then(|| (line.len() - trimmed.len(), name.to_owned()))
    };
    FULL.lines().enumerate().filter_map(|(at, line)| key(line).map(|(indent, name)| (at, indent, name))).collect()
}

/// The dotted path of each key of `FULL`, with its line.
fn full_paths() -> Vec<(usize, String)> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut paths = Vec::new();
    for (line, indent, name) in full_keys() {
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, name));
        paths.push((line, open.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(".")));
    }
    paths
}

#[test]
fn the_full_sample_says_the_defaults_and_every_key_with_a_comment() {
    let folder = Folder::new();
    // With two endpoints, as one alone is never ejected by default.
    let two = "[\"http://127.0.0.1:9000\", \"http://127.0.0.1:9001\"]";
    let smallest = folder.settings(&SMALLEST.replace("[\"http://127.0.0.1:9000\"]", two)).show();
    assert_eq!(folder.settings(FULL).show(), smallest);
    for (line, path) in full_paths() {
        let text = FULL.lines().nth(line).unwrap();
        assert!(text.contains(" # ") || path == "upstreams.axon", "{path} has no comment");
    }
    let required = ["version", "auth", "auth.keys", "governance", "governance.policies"];
    let mut removed = 0;
    for (line, path) in full_paths() {
        if required.contains(&path.as_str()) || path.starts_with("upstreams") && path.matches('.').count() < 2 {
            continue;
        }
        if path.ends_with(".endpoints") {
            continue;
        }
        // A block goes with everything that is indented deeper.
        let lines: Vec<&str> = FULL.lines().collect();
        let indent = |line: &str| line.len() - line.trim_start().len();
        let depth = indent(lines[line]);
        let end = (line + 1..lines.len()).find(|at| indent(lines[*at]) <= depth).unwrap_or(lines.len());
        let mut rest = [&lines[..line], &lines[end..]].concat();
        // The last key of a block goes with the block.
        let mut at = line;
        while at > 0 && rest.get(at).is_none_or(|next| indent(next) < indent(lines[at])) {
            let parent = (0..at).rev().find(|above| indent(lines[*above]) < indent(lines[at]));
            let Some(parent) = parent.filter(|parent| *parent + 1 == at) else { break };
            rest.remove(parent);
            at = parent;
        }
        assert_eq!(folder.settings(&rest.join("\n")).show(), smallest, "without {path}");
        removed += 1;
    }
    assert!(removed > 45, "{removed}");
}

#[test]
fn the_reference_lists_what_the_full_sample_says() {
    let no_default = ["upstreams.NAME.request.body"];
    let read = reference::rows(|b| drop(super::read::main(b)));
    let asked: BTreeSet<String> = read.iter().map(|row| row.path.clone()).collect();
    let mut written: BTreeSet<String> =
        full_paths().into_iter().map(|(_, path)| path.replace("upstreams.axon", "upstreams.NAME")).collect();
    written.remove("upstreams.NAME");
    // What is off by default, and the other way to write what the sample writes in a word.
    let other = ["upstreams.NAME.sign.", "upstreams.NAME.health.", "routes.", "auth.keys."];
    let other = |path: &&String| other.iter().any(|other| path.starts_with(other));
    let missing = asked.difference(&written).filter(|path| !no_default.contains(&path.as_str()));
    let missing: Vec<&String> = missing.filter(|path| !other(path)).collect();
    assert!(missing.is_empty(), "not in the sample: {missing:?}");
    assert!(written.is_subset(&asked), "unknown to the reader: {:?}", written.difference(&asked));
    for row in &read {
        let name = row.path.replace("upstreams.NAME", "upstreams.axon");
        if let Some((line, _)) = full_paths().iter().find(|(_, path)| *path == name)
            && let Some(default) = row.default.as_deref().filter(|default| *default != "the defaults below")
        {
            let text = FULL.lines().nth(*line).unwrap();
            assert!(text.contains(&format!(": {default} ")), "{} is not {default} in: {text}", row.path);
        }
    }
}

/// Its tables stand between two headings of the page.
#[test]
fn the_page_of_configuration_has_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("### The main file\n").unwrap();
    let (_, after) = rest.split_once("### The signing file").unwrap();
    let want = format!("{before}{}### The signing file{after}", reference());
    if std::env::var_os("ORBIT_BLESS").is_some() {
        std::fs::write(&path, &want).unwrap();
    }
    assert!(page == want, "docs/configuration.md is out of date: ORBIT_BLESS=1 cargo test the_page_of");
}

#[test]
fn several_problems_are_reported_at_once() {
    Folder::new().check(
        "version: 2\nnmae: x\nlisten:\n  body_bytes: 1\n  header_timeout: 10\nauth:\n  clock_skew: 1h\nupstreams:\n  axon: { endpoints: [] }\n",
        &[
            "1:1 `governance` is missing",
            "1:10 this version reads format 1 only",
            "2:1 unknown key `nmae`",
            "4:15 size `1` has no unit",
            "5:19 duration `10` has no unit",
            "6:1 `keys` is missing from `auth`",
            "7:15 `1h` is out of range",
            "9:22 the list is empty",
        ],
    );
}

#[test]
fn problems_of_all_files_are_reported_at_once() {
    let folder = Folder::new();
    folder.write("keys.yaml", "- access_key_id: AKID\n  secret_access_key: { env: NO_SUCH }\n  principle: x\n");
    folder.write("policies/default.json", "[{\"service\": \"orbit\", \"intent\": 1, \"enabled\": \"yes\"}]");
    folder.check(
        &with("drain: { min: 2m, max: 1m }"),
        &[
            "8:8 `min` is longer than `max`",
            "keys.yaml:1:3 `principal` is missing",
            "keys.yaml:2:29 environment variable `NO_SUCH` is not set",
            "keys.yaml:3:3 unknown key",
            "policies/default.json:1:33 expected text, found `1`",
            "policies/default.json:1:47 expected `true` or `false`, found the text `yes`",
        ],
    );
}

#[test]
fn broken_values() {
    let folder = Folder::new();
    for (block, expected) in [
        ("version: 1", vec!["8:1 duplicate key `version`, already on line 1"]),
        ("limits:", vec!["8:1 `limits` is blank"]),
        ("limits: {}", vec!["8:9 the block is empty"]),
        ("limits: null", vec!["8:9 `limits` is null"]),
        ("limits: off", vec!["8:9 expected a block"]),
        ("limits: { per_ip: off }", vec!["8:19 expected a block or `disabled`, found `off`"]),
        ("limits: { per_ip: { rate: 100 } }", vec!["8:27 rate `100` has no unit"]),
        ("limits: { per_ip: { rate: 0/s } }", vec!["8:27 would let nothing through"]),
        ("limits: { per_ip: { rate: 1/day } }", vec!["8:27 has an unknown unit"]),
        ("limits: { per_ip: { ipv6_prefix: 129 } }", vec!["8:34 `129` is out of range"]),
        ("limits: { per_ip: { ipv6_prefix: \"64\" } }", vec!["8:34 expected a whole number, found the text `64`"]),
        ("limits: { global: { mode: enforced } }", vec!["8:27 `enforced` is not `enforce` or `shadow`"]),
        ("limits: { governance: { key: intent } }", vec!["8:30 `intent` is not supported by this version"]),
        ("limits: { store: { redis: { url: x } } }", vec!["8:20 `redis` is not supported by this version"]),
        ("name: 5", vec!["8:7 expected text, found `5`"]),
        ("name: a b", vec!["8:7 `a b` is not valid here"]),
        ("name: \"\"", vec!["8:7 `` is not valid here"]),
        ("listen: { body_bytes: 1MB }", vec!["8:23 size `1MB` has an unknown unit"]),
        ("listen: { body_bytes: 1KiB, header_bytes: 1MiB }", vec!["8:43 `1MiB` is out of range"]),
        ("listen: { idle_timeout: [1s] }", vec!["8:25 expected a duration such as `5s`, found a list"]),
        ("listen: { idle_timeout: soon }", vec!["8:25 `soon` is not a duration"]),
        ("listen: { idle_timeout: 1.5s }", vec!["8:25 is not a whole number"]),
        ("listen: { in_flight: 0 }", vec!["8:22 `0` is out of range"]),
        ("listen: { in_flight: 1.5 }", vec!["8:22 expected a whole number, found `1.5`"]),
        ("listen: { address: 8080 }", vec!["8:20 `8080` is not `IP:port`"]),
        ("listen: { address: [] }", vec!["8:20 the list is empty"]),
        ("listen:\n  address: [::]:8080", vec!["9:16 not valid YAML"]),
        ("listen:\n  address:\n    - 1.2.3.4:1\n    - 1.2.3.4:1", vec!["11:7 listed twice"]),
        ("listen: { trusted_proxies: [10.0.0.1] }", vec!["8:29 `10.0.0.1` has no prefix length"]),
        ("listen: { trusted_proxies: [10.0.0.1/8] }", vec!["8:29 has bits set outside its prefix"]),
        ("listen: { trusted_proxies: [10.0.0.0/33] }", vec!["8:29 is not a network"]),
        ("observability: { logs: { requests: yes } }", vec!["8:36 expected `true` or `false`, found the text `yes`"]),
        ("observability: { logs: { level: inof } }", vec!["8:33 `inof` is not `off`"]),
        ("runtime: { threads: 0 }", vec!["8:21 `0` is out of range"]),
        ("runtime: { threads: many }", vec!["8:21 expected a whole number"]),
        ("drain: { min: 61s }", vec!["8:8 `min` is longer than `max`"]),
        ("drain: { min: 61 }", vec!["8:15 duration `61` has no unit"]),
        ("name: &x orbit", vec!["8:7 anchors are not supported"]),
        ("name: !!str orbit", vec!["8:7 tags are not supported"]),
        ("name: \"\\e[31m\\n\"", vec!["8:7 `\u{fffd}[31m\u{fffd}` is not valid here"]),
        ("---\nname: x", vec!["8:1 a second document begins here"]),
    ] {
        folder.check(&with(block), &expected);
    }
}

#[test]
fn broken_upstreams() {
    let folder = Folder::new();
    for (lines, expected) in [
        ("request: { method: PUT }", vec!["9:24 `PUT` is not `POST` or `GET`"]),
        ("request: { method: GET }", vec!["9:14 a `GET` carries no dispatch body"]),
        ("request: { body: none }", vec!["9:22 a `POST` carries the dispatch body"]),
        ("request: { path: dispatch }", vec!["9:22 `dispatch` is not valid here"]),
        ("request: { path: /a?b }", vec!["9:22 `/a?b` is not valid here"]),
        ("request: { path: /%zz }", vec!["9:22 `/%zz` is not valid here"]),
        ("timeouts: { connect: 2s, total: 1s }", vec!["9:15 `total` is shorter than `connect`"]),
        ("timeouts: { connect: 500, total: 1ms }", vec!["9:26 duration `500` has no unit"]),
        ("balance: hash", vec!["9:14 `hash` does not say of what"]),
        ("balance: { hash: }", vec!["9:16 `hash` is blank"]),
        ("balance: { hash: address }", vec!["9:22 `address` is not `principal`"]),
        ("balance: least_lodaed", vec!["9:14 `least_lodaed` is not `least_loaded` or `round_robin`"]),
        ("resolve: 0s", vec!["9:14 `0s` is out of range"]),
        ("slow_start: 2h", vec!["9:17 `2h` is out of range"]),
        ("health: { interval: 1s }", vec!["9:13 `timeout` is not shorter than `interval`"]),
        ("health: { path: health }", vec!["9:21 `health` is not valid here"]),
        ("health: { healthy: 0 }", vec!["9:24 `0` is out of range"]),
        ("health: {}", vec!["9:13 the block is empty"]),
        ("eject: { consecutive: 3 }", vec!["9:12 `max_percent: 50` of 1 can never eject"]),
        ("eject: { consecutive: 65, max_percent: 0 }", vec!["9:27 `65` is out of range", "9:44 `0` is out of range"]),
        ("eject: { for: 1 }", vec!["9:19 duration `1` has no unit"]),
        ("sign: { credentials: { keys: nowhere.yaml } }", vec!["9:34 cannot read"]),
        ("sign: yes", vec!["9:11 expected a block or `disabled`, found `yes`"]),
        ("sign:", vec!["9:5 `sign` is blank"]),
        ("keepalive: -1", vec!["9:16 expected a whole number, found `-1`"]),
    ] {
        folder.check(&with_upstream(lines), &expected);
    }
    for (endpoint, expected) in [
        ("HTTPS://127.0.0.1", "is not an endpoint"),
        ("https://127.0.0.1:0", "has no valid port"),
        ("http://axon_1.internal.:80000", "has no valid port"),
        ("http://-axon", "`-axon` is neither a host name nor an IP address"),
        ("http://a..b", "is neither a host name nor an IP address"),
        ("http://127.0.1", "`127.0.1` is neither a host name nor an IP address"),
        ("http://10.0.0.0x1", "is neither a host name nor an IP address"),
        ("http://ax on", "is neither a host name nor an IP address"),
        ("http://127.0.0.1:0", "has no valid port"),
        ("http://127.0.0.1:http", "has no valid port"),
        ("http://127.0.0.1/x", "has no path"),
        ("127.0.0.1:80", "is not an endpoint"),
        ("http://::1", "`:` is neither a host name nor an IP address"),
        ("http://[::1", "is neither a host name nor an IP address"),
    ] {
        let main = SMALLEST.replace("http://127.0.0.1:9000", endpoint);
        folder.check(&main, &[&format!("7:23 {expected}")]);
    }
    let two = "[\"http://localhost:1\", \"http://127.0.0.1:1/\"]";
    folder.check(&SMALLEST.replace("[\"http://127.0.0.1:9000\"]", two), &["7:45 listed twice"]);
    for (endpoints, expected) in [
        ("[\"http://Axon\", \"http://axon:80\"]", "7:38 listed twice"),
        ("[{ url: \"http://axon\", weight: 0 }]", "7:53 `0` is out of range"),
        ("[{ url: \"http://axon\", weight: 101 }]", "7:53 `101` is out of range"),
        ("{ weight: 1 }", "7:22 `url` is missing"),
        ("[{ url: axon }]", "7:30 `axon` is not an endpoint"),
        ("[{ uri: \"http://axon\" }]", "7:23 `url` is missing"),
    ] {
        let problems = folder.problems(&SMALLEST.replace("[\"http://127.0.0.1:9000\"]", endpoints));
        assert!(problems[0].starts_with(&format!("orbit.yaml:{expected}")), "{endpoints}: {problems:?}");
    }
}

#[test]
fn endpoints_and_their_weights() {
    let folder = Folder::new();
    let endpoints = "[\"http://LOCALHOST:1\", { url: \"http://Axon_1.internal.:2/\", weight: 7 }, \"http://[::1]\"]";
    let settings = folder.settings(&SMALLEST.replace("[\"http://127.0.0.1:9000\"]", endpoints));
    let read = &settings.upstreams[0].endpoints;
    assert_eq!(read[0].host, Host::Address([127, 0, 0, 1].into()));
    assert_eq!((read[0].authority.as_str(), read[0].weight), ("LOCALHOST:1", 1));
    assert_eq!(read[1].host, Host::Name("axon_1.internal.".to_owned()));
    assert_eq!((read[1].authority.as_str(), read[1].port, read[1].weight), ("Axon_1.internal.:2", 2, 7));
    assert_eq!((&read[2].host, read[2].port), (&Host::Address("::1".parse().unwrap()), 80));
    assert_eq!(&folder.settings(&settings.show()).upstreams[0].endpoints, read);
}

#[test]
fn health_and_ejection() {
    let folder = Folder::new();
    let read = |lines: &str| {
        let settings = folder.settings(&with_upstream(lines));
        assert_eq!(folder.settings(&settings.show()).show(), settings.show());
        settings.upstreams.into_iter().next().unwrap()
    };
    let health = read("health: { path: /ready }").health.unwrap();
    assert_eq!((health.path.as_str(), health.healthy, health.unhealthy), ("/ready", 2, 3));
    assert_eq!((health.interval, health.timeout), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!(read("health: disabled").health, None);
    assert_eq!(read("eject: disabled").eject, None);
    assert_eq!(read("eject: { max_percent: 100 }").eject.map(|eject| eject.most_of(1)), Some(1));
    // A name may stand for any number; three addresses leave one, two of them.
    let with_endpoints = |endpoints: &str| {
        let settings = folder.settings(&SMALLEST.replace("[\"http://127.0.0.1:9000\"]", endpoints));
        settings.upstreams[0].eject.map(|eject| [1, 2, 3, 4].map(|backends| eject.most_of(backends)))
    };
    assert_eq!(with_endpoints("\"http://axon\""), Some([0, 1, 1, 2]));
    assert_eq!(with_endpoints("[\"http://10.0.0.1\", \"http://10.0.0.2\"]"), Some([0, 1, 1, 2]));
}

#[test]
fn several_upstreams_need_a_route_for_every_intent_that_may_be_allowed() {
    let folder = Folder::new();
    let more = |routes: &str| with(&format!("  b: {{ endpoints: \"http://b\", sign: disabled }}\n{routes}"));
    let none = "6:1 several upstreams, and no route for the intent `call_reasoning`";
    folder.check(&more(""), &[none]);
    folder.check(&more("routes: [{ intent: other, upstream: b }]"), &[none]);
    let settings = folder.settings(&more("routes: [{ intent: call_reasoning, upstream: b }]"));
    let only = Route { intent: RouteIntent::Only("call_reasoning".to_owned()), upstream: "b".to_owned() };
    assert_eq!(settings.routes, std::slice::from_ref(&only));
    let settings = folder
        .settings(&more("routes:\n  - { intent: call_reasoning, upstream: b }\n  - { intent: \"*\", upstream: axon }"));
    assert_eq!(settings.routes, [only, Route { intent: RouteIntent::Others, upstream: "axon".to_owned() }]);
    let again = folder.settings(&settings.show());
    assert_eq!((again.show(), again.routes), (settings.show(), settings.routes));
    // Nothing could be allowed; but whoever adds a policy must not forget the route.
    let none = more("").replace("version: 1", "version: 1\nname: other");
    folder.check(&none, &["7:1 several upstreams, and no route says which of them is asked"]);
    assert_eq!(folder.settings(&with("routes: []")).routes, []);
}

#[test]
fn broken_routes() {
    let folder = Folder::new();
    for (block, expected) in [
        ("routes: [{ intent: a, upstream: axno }]", "8:33 no upstream is named `axno`"),
        ("routes: [{ intent: a }]", "8:10 `upstream` is missing"),
        ("routes: [{ upstream: axon }]", "8:10 `intent` is missing"),
        ("routes: [{ intent: \"\", upstream: axon }]", "8:20 `` is not valid here"),
        ("routes: [{ intent: a, upstream: axon }, { intent: a, upstream: axon }]", "8:41 listed twice"),
        ("routes: { intent: a, upstream: axon }", "8:9 expected a list"),
        ("routes: [{ intent: a, upstream: axon, weight: 1 }]", "8:39 unknown key `weight`"),
    ] {
        folder.check(&with(block), &[expected]);
    }
}

/// A certificate authority, one that it signed, the key of that, and the key of another.
struct Certificates {
    ca: String,
    cert: String,
    key: String,
    other_key: String,
}

fn certificates() -> Certificates {
    let keys = [(); 3].map(|()| rcgen::KeyPair::generate().unwrap());
    let [ca_key, key, other_key] = keys;
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let cert = rcgen::CertificateParams::new(vec!["orbit.test".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    Certificates { ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem(), other_key: other_key.serialize_pem() }
}

/// The smallest file with an `https` endpoint; `lines`, indented by four, begin at line 9.
fn with_secure_upstream(lines: &str) -> String {
    with_upstream(lines).replace("http://127.0.0.1:9000", "https://127.0.0.1:9000")
}

#[test]
fn certificates_are_read_with_the_configuration() {
    let folder = Folder::new();
    let made = certificates();
    folder.write("tls/ca.pem", &format!("of the cluster\n{}{}", made.ca, certificates().ca));
    folder.write("cert.pem", &made.cert);
    let key = folder.write("key.pem", &made.key);
    let main = with_secure_upstream(
        "tls: { ca: tls/ca.pem, server_name: axon.test, client_cert: cert.pem, client_key: key.pem }",
    );
    let loaded = folder.load(&main).unwrap_or_else(|problems| panic!("{problems}"));
    let tls = loaded.settings.upstreams[0].tls.clone().unwrap();
    assert_eq!(tls.roots.len(), 2);
    assert_eq!(tls.server_name.unwrap().to_str(), "axon.test");
    assert_eq!(tls.client.unwrap().key, key);
    assert_eq!(loaded.files.len(), 6, "what a reload has to look at: {:?}", loaded.files);
    assert!(loaded.warnings.iter().any(|warning| warning.message == "every user may read the private key"));
    let secret = made.key.lines().nth(1).unwrap();
    let shown = format!("{:?} {}", loaded.settings, loaded.settings.show());
    assert!(!shown.contains(secret), "the key is shown");
    assert_eq!(folder.settings(&loaded.settings.show()).show(), loaded.settings.show());

    // Each file's content counts: what comes next may be told from what was.
    let fingerprint = |folder: &Folder| folder.settings(&main).upstreams[0].tls.clone().unwrap().fingerprint;
    let before = (folder.load(&main).unwrap().sha256, fingerprint(&folder));
    folder.write("tls/ca.pem", &made.ca);
    let after = (folder.load(&main).unwrap().sha256, fingerprint(&folder));
    assert!(before.0 != after.0 && before.1 != after.1);
}

#[test]
fn broken_certificates_are_told_where_they_are_named() {
    let folder = Folder::new();
    let made = certificates();
    let cut = &made.ca[..made.ca.len() - 40];
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (name, text) in [
        ("ca.pem", made.ca.as_str()),
        ("cert.pem", &made.cert),
        ("key.pem", &made.key),
        ("other.pem", &made.other_key),
        ("cut.pem", cut),
        ("none.pem", no_certificate),
        ("empty.pem", "nothing here\n"),
    ] {
        folder.write(name, text);
    }
    for (lines, expected) in [
        ("tls: { ca: nowhere.pem }", vec!["9:16 cannot read"]),
        ("tls: { ca: empty.pem }", vec!["9:16 the file holds no certificate"]),
        ("tls: { ca: key.pem }", vec!["9:16 the file holds no certificate"]),
        ("tls: { ca: cut.pem }", vec!["9:16 the file is not valid PEM"]),
        ("tls: { ca: none.pem }", vec!["9:16 certificate 1 of the file cannot be used"]),
        ("tls: { ca: ca.pem, server_name: \"a b\" }", vec!["9:37 `a b` is not a host name"]),
        ("tls: { ca: ca.pem, client_cert: cert.pem }", vec!["9:24 `client_cert` has no `client_key`"]),
        ("tls: { ca: ca.pem, client_key: key.pem }", vec!["9:24 `client_key` has no `client_cert`"]),
        (
            "tls: { ca: ca.pem, client_cert: cert.pem, client_key: other.pem }",
            vec!["9:59 the key does not belong to `client_cert`"],
        ),
        (
            "tls: { ca: ca.pem, client_cert: none.pem, client_key: key.pem }",
            vec!["9:37 the first certificate of the file cannot be used"],
        ),
        (
            "tls: { ca: cut.pem, client_cert: key.pem, client_key: cert.pem }",
            vec![
                "9:16 the file is not valid PEM",
                "9:38 the file holds no certificate",
                "9:59 the file holds no private key",
            ],
        ),
        ("tls: { insecure: true }", vec!["9:12 unknown key `insecure`"]),
    ] {
        folder.check(&with_secure_upstream(lines), &expected);
    }
    let unused = with_upstream("tls: { ca: ca.pem }");
    folder.check(&unused, &["9:12 no endpoint is `https`, so this has no effect"]);
    assert!(folder.settings(&with_upstream("tls: { ca: null }")).upstreams[0].tls.is_none());
}

#[test]
fn the_systems_certificates_are_those_of_the_environment_or_of_the_system() {
    let folder = Folder::new();
    let path = folder.write("system.pem", &certificates().ca);
    let main = folder.write("orbit.yaml", &with_secure_upstream(""));
    let mut environment = environment();
    environment.insert("SSL_CERT_FILE".to_owned(), path.display().to_string());
    let loaded = Settings::load(&main, &environment).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.settings.upstreams[0].tls.clone().unwrap().roots.len(), 1);
    assert!(loaded.files.contains(&path), "{:?}", loaded.files);

    folder.write("system.pem", "");
    let problems = Settings::load(&main, &environment).unwrap_err().to_string();
    assert!(problems.contains("the system has no usable CA certificates"), "{problems}");
}

#[test]
fn retries_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let problem = |retry: &str| {
        let problems = folder.problems(&with_upstream(&format!("retry: {retry}")));
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].split_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(problem("{ attempts: 0 }"), "`0` is out of range");
    assert_eq!(problem("{ budget: 20 }"), "percentage `20` has no unit");
    assert_eq!(problem("{ budget: 101% }"), "`101%` is out of range");
    assert_eq!(problem("{ backoff: 100ms }"), "`100ms` is not two durations");
    assert_eq!(problem("{ backoff: 2s..1s }"), "`2s..1s` ends before it begins");
    assert_eq!(problem("{ backoff: 1s..60s }"), "`retry.backoff` is not shorter than `timeouts.total`");
    assert_eq!(problem("{ tries: 2 }"), "unknown key `tries`");
}

#[test]
fn keys_of_later_versions_are_refused_by_name() {
    let folder = Folder::new();
    for block in [
        "admin: { address: 127.0.0.1:9901 }",
        "reload: { watch: true }",
        "listen: { tls: { cert: a } }",
        "listen: { http2: true }",
        "listen: { proxy_protocol: \"off\" }",
        "limits: { store: { redis: { url: a } } }",
        "governance: { shadow: x.json }",
        "governance: { remote: {} }",
        "governance: { context: [a] }",
        "governance: { webhooks: [] }",
        "observability: { traces: { otlp: null } }",
        "runtime: { user: orbit }",
        "runtime: { pid_file: a }",
        "runtime: { upgrade_socket: a }",
    ] {
        let problems = folder.problems(&merged(block));
        let name = block.split([':', '{', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
        let refused = |name: &&str| problems[0].ends_with(&format!("`{name}` is not supported by this version"));
        assert!(problems.len() == 1 && name.iter().any(refused), "{block}: {problems:?}");
    }
}

/// The smallest file with `block` added, or merged into the block of the same name.
fn merged(block: &str) -> String {
    let (name, rest) = block.split_once(": {").unwrap_or((block, ""));
    let inner = rest.trim().strip_suffix('}').unwrap_or(rest).trim();
    match name {
        "auth" => SMALLEST.replace("  keys: keys.yaml", &format!("  keys: keys.yaml\n  {inner}")),
        "governance" => SMALLEST.replace("  policies:", &format!("  {inner}\n  policies:")),
        _ => with(block),
    }
}

#[test]
fn presigned_requests_are_refused_or_have_a_longest_life() {
    let folder = Folder::new();
    let presigned = |text: &str| merged(&format!("auth: {{ presigned: {text} }}"));
    assert_eq!(folder.settings(&presigned("deny")).auth.presigned, Presigned::Deny);
    for (text, seconds) in [("1s", 1), ("5m", 300), ("168h", 604_800)] {
        let max_expires = Duration::from_secs(seconds);
        let settings = folder.settings(&presigned(&format!("{{ max_expires: {text} }}")));
        assert_eq!(settings.auth.presigned, Presigned::Allow { max_expires });
        assert_eq!(folder.settings(&settings.show()).auth.presigned, Presigned::Allow { max_expires }, "shown");
    }
    for (text, expected) in [
        ("allow", "4:14 expected `deny` or `{ max_expires: duration }`"),
        ("5m", "4:14 expected `deny` or `{ max_expires: duration }`"),
        ("[deny]", "4:14 expected `deny` or `{ max_expires: duration }`"),
        ("{}", "4:14 the block is empty"),
        ("{ max_expires: 999ms }", "4:29 `999ms` is out of range"),
        ("{ max_expires: 169h }", "4:29 `169h` is out of range"),
        ("{ max_expires: 300 }", "4:29 duration `300` has no unit"),
        ("{ max_expires: 5m, min_expires: 1s }", "4:33 unknown key `min_expires`"),
    ] {
        folder.check(&presigned(text), &[expected]);
    }
}

#[test]
fn replay_is_one_of_three_words() {
    let folder = Folder::new();
    let replay = |text: &str| merged(&format!("auth: {{ replay: {text} }}"));
    assert_eq!(folder.settings(SMALLEST).auth.replay, Replay::Off);
    for (name, mode) in Replay::NAMES {
        let settings = folder.settings(&replay(name));
        assert_eq!((settings.auth.replay, folder.settings(&settings.show()).auth.replay), (mode, mode));
    }
    folder.check(&replay("on"), &["4:11 `on` is not `off`, `observe` or `enforce`"]);
    folder.check(&replay("true"), &["4:11 `true` is not `off`, `observe` or `enforce`"]);
}

#[test]
fn suggestions_name_the_nearest_key() {
    let folder = Folder::new();
    let help = |block: &str| {
        let problems = folder.load(&with(block)).unwrap_err();
        problems.iter().next().unwrap().help.clone().unwrap()
    };
    assert_eq!(help("listne: { connections: 1 }"), "did you mean `listen`?");
    assert_eq!(help("listen: { conections: 1 }"), "did you mean `connections`?");
    assert_eq!(help("drain: { grace: 1s }"), "the keys here are `min` and `max`");
    assert_eq!(help("listen: { body_timeout: 500 }"), "use `ms`, `s`, `m` or `h`, as in `500ms`");
    assert_eq!(help("limits: { per_ip: { mode: shadw } }"), "did you mean `shadow`?");
}

#[test]
fn unreadable_files_are_named_where_they_are_named() {
    let folder = Folder::new();
    folder.check(&SMALLEST.replace("keys.yaml", "nowhere.yaml"), &["3:9 nowhere.yaml`: no such file"]);
    folder.check(&SMALLEST.replace("*.json", "*.yml"), &["5:13 policies/*.yml` matches no file"]);
    folder.check(&SMALLEST.replace("*.json", "**/*.json"), &["5:13 `**` is not supported"]);
    folder.check(&SMALLEST.replace("*.json", "[.json"), &["5:13 the glob is not valid"]);
    folder.check(&SMALLEST.replace("/*.json", ""), &["5:13 it is a directory"]);
    let missing = Settings::load(&folder.0.path().join("absent.yaml"), &environment()).unwrap_err();
    assert!(missing.to_string().ends_with("absent.yaml: cannot read the file: no such file"), "{missing}");
    folder.check("", &["1:1 the file is empty"]);
    folder.check("[]", &["1:1 expected a block of `key: value` lines, found a list"]);
}

#[test]
fn key_files() {
    let folder = Folder::new();
    folder.write("secret", "from a file\n");
    folder.write(
        "keys.yaml",
        "- access_key_id: A\n  secret_access_key: { file: secret }\n  principal: p q\n  session_token: tok\n  \
         not_before: 2024-01-15T10:30:00Z\n  not_after: 2025-01-15T10:30:00Z\n  disabled: true\n",
    );
    folder.write("more.yaml", "- access_key_id: B\n  secret_access_key: plain\n  principal: p q\n");
    let loaded = folder.load(&SMALLEST.replace("keys.yaml", "[keys.yaml, more.yaml]")).unwrap();
    let [a, b] = loaded.settings.keys.as_slice() else { panic!() };
    assert_eq!((a.access_key_id.as_str(), a.principal.as_str(), a.disabled), ("A", "p q", true));
    assert_eq!(a.secret_access_key.expose_secret(), "from a file");
    assert_eq!(a.session_token.as_ref().map(ExposeSecret::expose_secret), Some("tok"));
    assert_eq!((a.not_before, a.not_after), (Some(1_705_314_600), Some(1_736_937_000)));
    assert_eq!((a.origin.line, a.origin.column), (1, 3));
    assert_eq!((b.secret_access_key.expose_secret(), b.not_before, b.disabled), ("plain", None, false));
    let names: Vec<_> = loaded.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["orbit.yaml", "keys.yaml", "secret", "more.yaml", "default.json"]);
}

const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:orbit/keys-AbCdEf";

fn managed() -> ManagedSecret {
    ManagedSecret { arn: ARN.to_owned(), refresh: Duration::from_secs(300), endpoint: None }
}

/// The smallest file with these sources of keys.
fn with_sources(keys: &str) -> String {
    SMALLEST.replace("keys: keys.yaml", &format!("keys: {keys}"))
}

fn with_managed() -> String {
    with_sources(&format!("{{ secrets_manager: {{ arn: {ARN:?} }} }}"))
}

fn fetched(current: &str, previous: Option<&str>) -> Fetched {
    let versions = Versions { current: current.into(), previous: previous.map(Into::into) };
    Fetched::default().with(managed(), Ok(Arc::new(versions)))
}

/// A list with one entry per `(id, secret, principal)`, as JSON.
fn key_list(entries: &[(&str, &str, &str)]) -> String {
    let entry = |(id, secret, principal): &(&str, &str, &str)| {
        format!(r#"{{"access_key_id":"{id}","secret_access_key":"{secret}","principal":"{principal}"}}"#)
    };
    format!("[{}]", entries.iter().map(entry).collect::<Vec<_>>().join(",\n"))
}

/// The keys as `(id, secret, principal, stage)`.
fn keys_of(settings: &Settings) -> Vec<(&str, &str, &str, Stage)> {
    fn row(key: &super::KeySetting) -> (&str, &str, &str, Stage) {
        (key.access_key_id.as_str(), key.secret_access_key.expose_secret(), key.principal.as_str(), key.stage)
    }
    settings.keys.iter().map(row).collect()
}

#[test]
fn managed_secrets_are_named_with_their_rhythm() {
    let folder = Folder::new();
    let other = ARN.replace("orbit", "other");
    let main = with_sources(&format!(
        "[keys.yaml, {{ secrets_manager: {{ arn: {ARN:?}, refresh: 30s, endpoint: \"http://127.0.0.1:5000\" }} }}, \
         {{ secrets_manager: {{ arn: {other:?} }} }}]"
    ));
    let outline = Settings::outline(&folder.write("orbit.yaml", &main), &environment()).unwrap();
    let endpoint = Some("http://127.0.0.1:5000".to_owned());
    let first = ManagedSecret { refresh: Duration::from_secs(30), endpoint, ..managed() };
    assert_eq!(outline.secrets, [first.clone(), ManagedSecret { arn: other, ..managed() }]);
    let versions = |id| Arc::new(Versions { current: key_list(&[(id, "s", "p")]).into(), previous: None });
    let fetched = Fetched::default().with(outline.secrets[0].clone(), Ok(versions("ONE")));
    let fetched = fetched.with(outline.secrets[1].clone(), Ok(versions("TWO")));
    let settings = folder.load_with(&main, &fetched).unwrap().settings;
    assert_eq!(keys_of(&settings).iter().map(|key| key.0).collect::<Vec<_>>(), ["AKID", "ONE", "TWO"]);
    let shown = settings.show();
    assert_eq!(folder.load_with(&shown, &fetched).unwrap().settings.show(), shown);
    assert_eq!(settings.auth.key_sources[1], KeySource::SecretsManager(first));
}

#[test]
fn managed_secrets_that_make_no_sense_are_refused() {
    let folder = Folder::new();
    let sources = |inner: &str| with_sources(&format!("{{ secrets_manager: {inner} }}"));
    let arn = format!("arn: {ARN:?}");
    for (main, expected) in [
        (sources("{ arn: orbit/keys }"), vec!["3:35 `orbit/keys` is not valid here"]),
        (sources("{ refresh: 5m }"), vec!["3:28 `arn` is missing"]),
        (sources("{}"), vec!["3:28 the block is empty"]),
        (sources(&format!("{{ {arn}, refresh: 10 }}")), vec!["3:118 has no unit"]),
        (sources(&format!("{{ {arn}, refresh: 0s }}")), vec!["3:118 out of range"]),
        (sources(&format!("{{ {arn}, endpoint: \"http://example\" }}")), vec!["3:119 not valid here"]),
        (sources(&format!("{{ {arn}, region: a }}")), vec!["3:109 unknown key `region`"]),
        (
            with_sources(&format!(
                "[{{ secrets_manager: {{ {arn} }} }}, {{ secrets_manager: {{ {arn}, refresh: 1m }} }}]"
            )),
            vec!["3:114 listed twice"],
        ),
        (with_sources("{ secret_manager: a }"), vec!["3:9 `secrets_manager` is missing", "3:11 unknown key"]),
    ] {
        folder.check(&main, &expected);
    }
}

#[test]
fn a_managed_secret_that_was_not_fetched_says_why() {
    let folder = Folder::new();
    let main = with_managed();
    folder.check(&main, &["3:9 this source needs the network"]);
    folder.check(&format!("{main}nonsense: 1\n"), &["8:1 unknown key"]);
    let told = |fetched: &Fetched| folder.load_with(&main, fetched).unwrap_err().to_string();
    assert!(told(&Fetched::default()).contains("was not fetched"));
    let unfetched = Unfetched { why: "no such secret".to_owned(), help: "check the ARN" };
    let told = told(&Fetched::default().with(managed(), Err(unfetched)));
    assert!(told.contains(&format!("orbit.yaml:3:9: cannot fetch `{ARN}`: no such secret (check the ARN)")), "{told}");
}

#[test]
fn both_versions_of_a_managed_secret_count() {
    let folder = Folder::new();
    let load = |current: &[_], previous: Option<&[_]>| {
        let fetched = fetched(&key_list(current), previous.map(key_list).as_deref());
        folder.load_with(&with_managed(), &fetched).unwrap_or_else(|problems| panic!("{problems}"))
    };
    let (current, previous) = (Stage::Current, Stage::Previous);
    let loaded = load(
        &[("A", "new", "p"), ("B", "same", "new name"), ("C", "c", "p")],
        Some(&[("A", "old", "p"), ("B", "same", "old name"), ("GONE", "g", "p")]),
    );
    assert_eq!(
        keys_of(&loaded.settings),
        [
            ("A", "new", "p", current),
            ("B", "same", "new name", current),
            ("C", "c", "p", current),
            ("A", "old", "p", previous),
            ("GONE", "g", "p", previous),
        ]
    );
    assert_eq!(loaded.files.len(), 2, "a secret is no file: {:?}", loaded.files);
    assert!(
        loaded.settings.keys[3].origin.to_string().ends_with("AWSPREVIOUS:1:2"),
        "{}",
        loaded.settings.keys[3].origin
    );
    let only = load(&[("A", "new", "p")], None);
    assert_eq!(keys_of(&only.settings), [("A", "new", "p", current)]);
    let same = load(&[("A", "new", "p")], Some(&[("A", "new", "p")]));
    assert_eq!(keys_of(&same.settings), [("A", "new", "p", current)]);
    assert_ne!(only.sha256, same.sha256);
    assert_ne!(loaded.sha256, load(&[("A", "new", "p"), ("B", "same", "new name"), ("C", "c", "p")], None).sha256);
}

#[test]
fn a_key_that_is_disabled_is_disabled_with_its_old_secret() {
    let folder = Folder::new();
    let current = r#"[{"access_key_id":"A","secret_access_key":"new","principal":"p","disabled":true}]"#;
    let fetched = fetched(current, Some(&key_list(&[("A", "old", "p")])));
    let settings = folder.load_with(&with_managed(), &fetched).unwrap().settings;
    assert_eq!(keys_of(&settings), [("A", "new", "p", Stage::Current)]);
}

#[test]
fn a_previous_version_takes_no_more_than_the_room_that_is_left() {
    let folder = Folder::new();
    let most = crate::auth::keyring::KEYS_MAX;
    let ids: Vec<String> = (0..most).map(|n| format!("A{n}")).collect();
    let list: Vec<_> = ids.iter().map(|id| (id.as_str(), "s", "p")).collect();
    let gone = key_list(&[("GONE", "g", "p"), ("GONE_TOO", "g", "p")]);
    for (current, kept) in [(&list[..], 0), (&list[1..], 1), (&list[2..], 2)] {
        let loaded = folder.load_with(&with_managed(), &fetched(&key_list(current), Some(&gone))).unwrap();
        let previous = loaded.settings.keys.iter().filter(|key| key.stage == Stage::Previous).count();
        assert_eq!(previous, kept);
        assert!(crate::snapshot::keyring(&loaded.settings).is_ok());
        let warned = loaded.warnings.iter().filter(|warning| warning.message.contains("keys already")).count();
        assert_eq!(warned, usize::from(kept < 2), "{:?}", loaded.warnings);
    }
}

#[test]
fn an_invalid_previous_version_refuses_nothing_but_itself() {
    let folder = Folder::new();
    for previous in ["hunter2", "[]", "[{\"access_key_id\":\"hunter2\"}]", "{"] {
        let fetched = fetched(&key_list(&[("A", "new", "p")]), Some(previous));
        let loaded = folder.load_with(&with_managed(), &fetched).unwrap();
        assert_eq!(keys_of(&loaded.settings), [("A", "new", "p", Stage::Current)]);
        let warning = loaded.warnings.iter().find(|warning| warning.message.contains("previous version is not valid"));
        let warning = warning.unwrap_or_else(|| panic!("{previous}: {:?}", loaded.warnings)).to_string();
        assert!(!warning.contains("hunter2") && warning.contains("AWSPREVIOUS:1:"), "{warning}");
    }
}

#[test]
fn a_key_of_another_source_is_not_called_back_by_a_previous_version() {
    let folder = Folder::new();
    let main = with_sources(&format!("[{{ secrets_manager: {{ arn: {ARN:?} }} }}, keys.yaml]"));
    let moved = fetched(&key_list(&[("A", "a", "p")]), Some(&key_list(&[("A", "a", "p"), ("AKID", "old", "p")])));
    let loaded = folder.load_with(&main, &moved).unwrap();
    assert_eq!(keys_of(&loaded.settings).iter().map(|key| key.0).collect::<Vec<_>>(), ["A", "AKID"]);
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("whose secret alone is accepted")));
    // Twice in current lists is one too many.
    let twice = fetched(&key_list(&[("AKID", "a", "p")]), None);
    let told = folder.load_with(&main, &twice).unwrap_err().to_string();
    assert!(told.contains(&format!("this `access_key_id` is already at {ARN}:1:2")), "{told}");
}

#[test]
fn broken_managed_secrets_never_show_what_is_in_them() {
    let folder = Folder::new();
    for (text, expected) in [
        ("hunter2", ":1:1: expected a list"),
        (
            "[\n{\"access_key_id\":\"A\",\"secret_access_key\":\"hunter2\",\"principle\":\"p\"}]",
            ":2:1: `principal` is missing",
        ),
        (
            "[{\"access_key_id\":\"A\",\"secret_access_key\":{\"env\":\"A_SECRET\"},\"principal\":\"p\"}]",
            ":1:43: what is fetched cannot refer to this machine",
        ),
        (
            "[{\"access_key_id\":\"A\",\"secret_access_key\":{\"file\":\"/etc/hunter2\"},\"principal\":\"p\"}]",
            ":1:43: what is fetched cannot refer to this machine",
        ),
        ("", ":1:1: the file is empty"),
    ] {
        let problems = folder.load_with(&with_managed(), &fetched(text, None)).unwrap_err();
        let shown = format!("{problems}{problems:?}{}{}", problems.render(Colour::Plain), problems.to_json());
        assert!(shown.contains(&format!("{ARN}{expected}")), "{text}\n{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn broken_key_files_never_show_what_is_in_them() {
    let folder = Folder::new();
    let secret = "hunter2";
    for (keys, expected) in [
        ("[]", vec!["keys.yaml:1:1 the list holds no key"]),
        ("a: hunter2", vec!["keys.yaml:1:1 expected a list, found a block"]),
        ("hunter2", vec!["keys.yaml:1:1 expected a list, found the text the value"]),
        ("- hunter2", vec!["keys.yaml:1:3 expected a block of `key: value` lines, found the text the value"]),
        ("- { hunter2: hunter2 }", vec!["1:3 missing", "1:3 missing", "1:3 missing", "1:5 unknown key"]),
        ("- { access_key_id: a/hunter2, secret_access_key: s, principal: p }", vec!["1:20 not valid here"]),
        ("- { access_key_id: A, secret_access_key: [hunter2], principal: p }", vec!["1:42 expected a secret"]),
        ("- { access_key_id: A, secret_access_key: '', principal: p }", vec!["1:42 the secret is empty"]),
        ("- { access_key_id: A, secret_access_key: 12345, principal: p }", vec!["1:42 expected text for the secret"]),
        (
            "- { access_key_id: A, secret_access_key: { env: hunter2 }, principal: p }",
            vec!["1:49 of that name is not set"],
        ),
        (
            "- { access_key_id: A, secret_access_key: { file: hunter2 }, principal: p }",
            vec!["1:50 cannot read the value"],
        ),
        ("- { access_key_id: A, secret_access_key: s, principal: \"hunter2\\n\" }", vec!["1:56 not valid here"]),
        (
            "- { access_key_id: A, secret_access_key: s, principal: p, disabled: hunter2 }",
            vec!["1:69 found the text the value"],
        ),
        ("- { access_key_id: A, secret_access_key: s, principal: p, not_after: hunter2 }", vec!["1:70 RFC 3339"]),
        (
            "- { access_key_id: A, secret_access_key: s, principal: p, session_token: \"hunter2 x\" }",
            vec!["1:74 the session token is not valid"],
        ),
        (
            "- { access_key_id: A, secret_access_key: hunter2, principal: p, not_before: 2025-01-01T00:00:00Z, \
             not_after: 2024-01-01T00:00:00Z }",
            vec!["1:110 `not_after` is not later"],
        ),
        (
            "- { access_key_id: A, secret_access_key: hunter2, principal: p }\n\
             - { access_key_id: A, secret_access_key: hunter2, principal: p }",
            vec!["2:3 keys.yaml:1:3"],
        ),
        (
            "- { access_key_id: A, hunter2: 1, hunter2: 2 }",
            vec!["1:3 `secret", "1:3 `prin", "1:23 unknown", "1:35 dup", "1:35 unknown"],
        ),
        ("- secret_access_key: 'hunter2", vec!["1:22 not valid YAML"]),
        ("- secret_access_key: @hunter2", vec!["1:22 not valid YAML: unexpected character"]),
    ] {
        folder.write("keys.yaml", keys);
        let expected: Vec<String> = expected
            .iter()
            .map(|e| if e.starts_with("keys") { (*e).to_owned() } else { format!("keys.yaml:{e}") })
            .collect();
        folder.check(SMALLEST, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        let problems = folder.load(SMALLEST).unwrap_err();
        for shown in [
            problems.render(Colour::Plain),
            problems.render(Colour::Ansi),
            problems.to_string(),
            problems.to_json().to_string(),
            format!("{problems:?}"),
        ] {
            assert!(!shown.contains(secret), "{keys}\n{shown}");
        }
    }
}

#[test]
fn secrets_in_the_wrong_file_are_not_shown() {
    let folder = Folder::new();
    for main in [
        with("admin: { token: hunter2, address: 1 }"),
        with("admin: { token: hunter2 }\nlisten: { client_secret: hunter2, in_flight: 0 }"),
        with_upstream("sign: { credentials: hunter2 }"),
        SMALLEST.replace("keys.yaml", "[{ access_key_id: A, secret_access_key: hunter2, principal: p }]"),
        SMALLEST.replace("http://", "http://user:hunter2@"),
        with("webhook_secret: 'hunter2"),
    ] {
        let problems = folder.load(&main).unwrap_err();
        let shown = format!("{problems}{problems:?}{}{}", problems.render(Colour::Plain), problems.to_json());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn loaded_secrets_are_not_shown() {
    let folder = Folder::new();
    folder.write(
        "keys.yaml",
        "- { access_key_id: A, secret_access_key: hunter2, principal: p, session_token: hunter2 }\n",
    );
    let loaded = folder.load(&with_upstream("sign: { region: eu-west-1 }")).unwrap();
    let shown = format!("{loaded:?}{}", loaded.settings.show());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn signing_credentials() {
    let folder = Folder::new();
    let sign = |lines: &str| {
        let upstream = folder.settings(&with_upstream(lines)).upstreams.remove(0);
        upstream.sign.expect("a block")
    };
    for lines in ["sign: { region: eu-west-1 }", "sign: { credentials: default, region: eu-west-1 }"] {
        let sign = sign(lines);
        assert_eq!((sign.service.as_str(), sign.region.as_str()), ("execute-api", "eu-west-1"));
        assert!(matches!(sign.source, SignSource::Default), "{:?}", sign.source);
        assert_eq!((sign.origin.line, sign.origin.column), (9, 11));
    }
    let path = folder.write("sign.yaml", "access_key_id: S\nsecret_access_key: s\nsession_token: t\n");
    let SignSource::File(file, credentials) = sign("sign: { credentials: { keys: sign.yaml } }").source else {
        panic!()
    };
    assert_eq!((file, credentials.access_key_id.as_str()), (path, "S"));
    folder.write("sign.yaml", "- access_key_id: S\n");
    folder.check(
        &with_upstream("sign: { credentials: { keys: sign.yaml } }"),
        &["sign.yaml:1:1 expected a block of `key: value` lines, found a list"],
    );
}

#[test]
fn policy_files() {
    let folder = Folder::new();
    folder.write(
        "policies/b.json",
        r#"[{"service":"orbit","intent":"b","enabled":false,"description":null,
            "time_restrictions":{"allowed_hours":[8,9]},"rate_limits":{"requests_per_minute":1,"requests_per_hour":null},
            "conditions":[{"type":"context_check","field":"n","operator":"greater_than","value":1.5,"description":"d"},
                          {"type":"context_check","field":"x","operator":"equals","value":null}]}]"#,
    );
    folder.write(
        "more/a.yaml",
        "- service: orbit\n  intent: a\n  enabled: true\n  time_restrictions: { allowed_hours: null }\n",
    );
    let main = SMALLEST.replace("policies/*.json", "[policies/*.json, policies/b.json, more/a.yaml]");
    let settings = folder.settings(&main);
    let intents: Vec<_> = settings.policies.iter().map(|(policy, _)| policy.intent.as_str()).collect();
    assert_eq!(intents, ["b", "call_reasoning", "a"]);
    let (b, origin) = &settings.policies[0];
    assert_eq!((origin.file.file_name().unwrap().to_str(), origin.line, origin.column), (Some("b.json"), 1, 2));
    assert_eq!((b.enabled, &b.description, &b.allowed_hours), (false, &None, &Some(vec![8, 9])));
    assert_eq!(b.rate_limits, Some(RateLimits { requests_per_minute: Some(1), requests_per_hour: None }));
    assert_eq!(b.conditions[0].operator, Operator::GreaterThan);
    assert_eq!(b.conditions[0].value, serde_json::json!(1.5));
    assert_eq!((&b.conditions[1].value, &b.conditions[1].description), (&serde_json::Value::Null, &None));
    assert_eq!((&settings.policies[2].0.allowed_hours, settings.policies[2].0.rate_limits), (&None, None));
}

#[test]
fn broken_policy_files() {
    let folder = Folder::new();
    let policy = |rest: &str| format!("- {{ service: orbit, intent: x, enabled: true, {rest} }}");
    let condition = |rest: &str| policy(&format!("conditions: [{{ {rest} }}]"));
    for (text, expected) in [
        ("[]".to_owned(), "1:1 the policy file lists no policy"),
        (policy("priority: 1"), "1:47 unknown key `priority`"),
        (policy("time_restrictions: { allowed_hours: [] }"), "1:83 `allowed_hours` is empty"),
        (policy("time_restrictions: { allowed_hours: [24] }"), "1:84 `24` is out of range"),
        (policy("time_restrictions: { allowed_hours: [1, 1] }"), "1:87 listed twice"),
        (policy("time_restrictions: {}"), "1:66 the block is empty"),
        (policy("rate_limits: { requests_per_minute: 0 }"), "1:83 a limit of 0 would never allow"),
        (policy("rate_limits: { requests_per_minute: 100/min }"), "1:83 expected a whole number"),
        (policy("rate_limits: { per_minute: 1 }"), "1:62 unknown key `per_minute`"),
        (policy("conditions: { type: context_check }"), "1:59 expected a list"),
        (condition("type: script, field: a, operator: equals, value: 1"), "1:68 `script` is not `context_check`"),
        (condition("type: context_check, field: a, operator: eq, value: 1"), "1:103 `eq` is not `equals`"),
        (condition("type: context_check, field: a, operator: equals"), "1:60 `value` is missing"),
        (
            condition("type: context_check, field: a, operator: less_than, value: x"),
            "1:121 `less_than` compares numbers",
        ),
        (condition("type: context_check, field: a, operator: equals, value:"), "1:111 `value` is blank"),
        (condition("type: context_check, field: '', operator: equals, value: 1"), "1:90 `` is not valid here"),
    ] {
        folder.write("policies/default.json", &text);
        folder.check(SMALLEST, &[&format!("policies/default.json:{expected}")]);
    }
}

#[test]
fn a_policy_may_stand_once() {
    let folder = Folder::new();
    folder.write("policies/second.json", POLICIES);
    let problems = folder.problems(SMALLEST);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("policies/second.json:2:3 a policy for service `orbit`, intent `call_reasoning`"));
    assert!(problems[0].ends_with("policies/default.json:2:3"), "{problems:?}");
}

#[test]
fn warnings() {
    let folder = Folder::new();
    let warnings = |main: &str| -> Vec<String> {
        let loaded = folder.load(main).unwrap();
        loaded.warnings.iter().map(|w| format!("{}:{} {}", w.line, w.column, w.message)).collect()
    };
    assert_eq!(warnings(SMALLEST), ["7:9 requests to Axon are not signed"]);
    assert_eq!(warnings(&with_upstream("keepalive: 0")), ["7:3 requests to Axon are not signed"]);
    let signed = with_upstream("sign: disabled");
    assert!(warnings(&signed).is_empty());
    let hashed = with_upstream("sign: disabled\nbalance: { hash: principal }");
    assert!(warnings(&hashed).is_empty(), "there is nothing to choose");
    let hashed = hashed.replace("[\"http://127.0.0.1:9000\"]", "[\"http://axon\", \"http://127.0.0.1\"]");
    assert_eq!(warnings(&hashed), ["6:1 `balance: { hash: principal }`, and all keys are one principal's"]);
    let bob = "- { access_key_id: B, secret_access_key: { env: A_SECRET }, principal: bob }\n";
    folder.write("keys.yaml", &format!("{KEYS}{bob}"));
    assert!(warnings(&hashed).is_empty());
    assert_eq!(
        warnings(&format!("{signed}name: other\nlisten: {{ trusted_proxies: [\"::/0\"] }}\n")),
        ["5:13 no policy is for the service `other`", "11:29 `::/0` believes `X-Forwarded-For` from everyone"]
    );
}

#[cfg(unix)]
#[test]
fn plain_secrets_that_everyone_can_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let main = with_upstream("sign: disabled");
    let path = folder.write("keys.yaml", "- { access_key_id: A, secret_access_key: hunter2, principal: p }\n");
    for (mode, expected) in [(0o644, 1), (0o640, 0), (0o600, 0)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(folder.load(&main).unwrap().warnings.len(), expected, "{mode:o}");
    }
    folder.write("keys.yaml", KEYS);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(folder.load(&main).unwrap().warnings, []);
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let folder = Folder::new();
    folder.write("sign.yaml", "access_key_id: S\nsecret_access_key: s\n");
    let full = "version: 1\nname: my.orbit\n\
        listen: { address: ['127.0.0.1:0', '[::1]:8080'], trusted_proxies: [10.0.0.0/8, 'fd00::/8'], body_bytes: 1025B,\n  \
        header_timeout: 1500ms, connections: 7 }\n\
        drain: { min: 0s, max: 90s }\n\
        auth: { region: [a, b], service: c, clock_skew: 60s, keys: [keys.yaml], unsigned_payload: allow, replay: enforce, hints: safe }\n\
        limits: { per_ip: disabled, global: { rate: 7/h, mode: shadow }, governance: { rate: 3/s } }\n\
        governance: { policies: [policies/*.json, more/x.yaml] }\n\
        upstreams: { my-axon: { endpoints: ['http://localhost', 'http://[::1]:9000/'], keepalive: 0,\n  \
        request: { method: GET, path: /reason, body: none }, sign: { credentials: { keys: sign.yaml } },\n  \
        timeouts: { connect: 250ms, total: 2h }, balance: { hash: principal }, resolve: 1500ms } }\n\
        observability: { logs: { format: json, level: off, requests: false }, metrics: { on_main: false } }\n\
        runtime: { threads: 4 }\n";
    folder.write("more/x.yaml", "- { service: my.orbit, intent: \"a\\n\\u2028b\", enabled: false }\n");
    folder.check(full, &["11:38 `2h` is out of range"]);
    let settings = folder.settings(&full.replace("2h", "1h"));
    let shown = settings.show();
    let again = folder.settings(&shown);
    assert_eq!(again.show(), shown);
    assert_eq!(again.listen, settings.listen);
    assert_eq!(again.auth, settings.auth);
    assert_eq!((again.drain, again.limits, again.governance), (settings.drain, settings.limits, settings.governance));
    let (old, new) = (&settings.upstreams[0], &again.upstreams[0]);
    assert_eq!(new.endpoints, old.endpoints);
    assert_eq!((&new.request, new.timeouts, new.balance), (&old.request, old.timeouts, Balance::HashPrincipal));
    assert_eq!(new.resolve, Duration::from_millis(1500));
    assert_eq!((again.observability, again.runtime), (settings.observability, settings.runtime));
    assert_eq!((new.endpoints[0].authority.as_str(), new.endpoints[1].port), ("localhost", 9000));
    assert_eq!(settings.policies.len(), 2);
}

#[test]
fn a_directory_with_glob_characters_is_no_pattern() {
    let folder = Folder::new();
    for name in ["orbit.yaml", "keys.yaml", "policies/default.json"] {
        let text = match name {
            "orbit.yaml" => SMALLEST,
            "keys.yaml" => KEYS,
            _ => POLICIES,
        };
        folder.write(&format!("a[1]*/{name}"), text);
    }
    let load = || Settings::load(&folder.0.path().join("a[1]*/orbit.yaml"), &environment()).unwrap().settings;
    assert_eq!(load().policies.len(), 1);
    let shown = folder.write("shown.yaml", &load().show());
    assert_eq!(Settings::load(&shown, &environment()).unwrap().settings.policies.len(), 1);
    folder.write("a[1]*/orbit.yaml", &SMALLEST.replace("*.json", "default.json"));
    assert_eq!(load().policies.len(), 1);
}

#[test]
fn the_fingerprint_follows_every_file() {
    let folder = Folder::new();
    folder.write("secret", "one");
    folder.write("keys.yaml", &KEYS.replace("env: A_SECRET", "file: secret"));
    let fingerprint = || folder.load(SMALLEST).unwrap().sha256;
    let mut seen = BTreeSet::from([fingerprint()]);
    assert!(!seen.insert(fingerprint()));
    for (name, text) in [
        ("secret", "two".to_owned()),
        ("keys.yaml", format!("# \n{}", KEYS.replace("env: A_SECRET", "file: secret"))),
        ("policies/default.json", format!("{POLICIES}\n")),
        ("policies/more.json", POLICIES.replace("call_reasoning", "x")),
    ] {
        folder.write(name, &text);
        assert!(seen.insert(fingerprint()), "{name}");
    }
}

#[test]
fn what_needs_a_restart_is_named() {
    let folder = Folder::new();
    let old = folder.settings(SMALLEST);
    assert!(old.diff_restart(&folder.settings(&with("limits: { global: disabled }"))).is_empty());
    let new =
        with("listen: { address: 127.0.0.1:1 }\nruntime: { threads: 2 }\nobservability: { logs: { format: json } }");
    let expected = ["listen.address", "observability.logs.format", "runtime.threads"];
    assert_eq!(old.diff_restart(&folder.settings(&new)), expected);
}
