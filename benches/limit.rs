//! What a limit costs and, printed first, whom it refuses wrongly.
//!
//! `cargo bench --bench limit`. The tables are simulated in full (200,000 addresses, 5 million
//! strangers a minute) and take about a minute; `src/limit/keyed.rs` tests smaller ones.

#![allow(clippy::expect_used, reason = "a bench that can't be set up should stop")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

#[path = "../src/limit/population.rs"]
mod population;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use orbit::clock::Moment;
use orbit::limit::{AddressKey, Keyed, Rate, Window, admit_all};
use population::{MINUTE, START, flood, steady};

const PER_MINUTE: Rate = Rate { count: 100, per: Duration::from_nanos(MINUTE) };
const SEED: u64 = 0x5EED;

fn at(ticks: u64) -> Moment {
    Moment { unix_nanos: 0, ticks }
}

fn key(client: u32) -> AddressKey {
    AddressKey::of(IpAddr::V4(Ipv4Addr::from_bits(client)), 64)
}

fn table() -> Keyed {
    Keyed::new(PER_MINUTE, SEED).expect("a valid rate")
}

fn print_false_refusals() {
    println!("addresses that each send 90 a minute, limit 100, refused:");
    println!("{:>10} {:>12} {:>28}", "addresses", "Keyed", "pingora_limits::Rate::new");
    for addresses in [1_000, 20_000, 200_000, 300_000] {
        let ours = table();
        let ours = steady(addresses, 90, 2.0, |client, ticks| ours.admit(key(client), at(ticks)).admitted);
        // Its clock can't be passed in: one window's requests are sent at once, in one window of an hour.
        let crates = pingora_limits::rate::Rate::new(Duration::from_secs(3600));
        let crates = steady(addresses, 90, 1.0, |client, _| crates.observe(&client, 1) <= 100);
        println!("{addresses:>10} {:>10.4} % {:>26.4} %", 100.0 * ours.refused_share(), 100.0 * crates.refused_share());
    }
}

fn print_floods() {
    println!("a flood of addresses among clients that send 90 a minute, limit 100, refused:");
    println!(
        "{:>14} {:>9} {:>14} {:>12} {:>12} {:>10}",
        "strangers/min", "each", "established", "newcomers", "strangers", "MiB"
    );
    for (strangers, each) in [(1_000_000, 1), (5_000_000, 1), (2_500_000, 2), (20_000, 200)] {
        let ours = table();
        let told = flood(strangers, each, |client, ticks| ours.admit(key(client), at(ticks)).admitted);
        println!(
            "{strangers:>14} {each:>9} {:>12.4} % {:>10.4} % {:>10.4} % {:>10.1}",
            100.0 * told.established.refused_share(),
            100.0 * told.newcomers.refused_share(),
            100.0 * told.attackers.refused_share(),
            ours.bytes() as f64 / (1 << 20) as f64
        );
    }
}

/// A rate that a bench never exhausts, with a window that it does not leave.
const AMPLE: Rate = Rate { count: 65_535, per: Duration::from_nanos(MINUTE) };

fn window(c: &mut Criterion) {
    for count in [100, 1_000, 100_000] {
        let window = Window::new(Rate { count, per: Duration::from_nanos(MINUTE) });
        // The steady state of a full ring: every request admitted, at exactly the limit.
        let gap = MINUTE.div_ceil(u64::from(count));
        let mut ticks = START;
        c.bench_function(&format!("window/admitted/{count}"), |b| {
            b.iter(|| {
                ticks += gap;
                black_box(window.admit(at(ticks)))
            });
        });
        c.bench_function(&format!("window/refused/{count}"), |b| b.iter(|| black_box(window.admit(at(ticks)))));
    }
    let (minute, hour) = (Window::new(AMPLE), Window::new(Rate { per: Duration::from_secs(3600), ..AMPLE }));
    let mut ticks = START;
    c.bench_function("window/minute and hour", |b| {
        b.iter(|| {
            ticks += 60_000_000;
            black_box(admit_all(&[&minute, &hour], at(ticks)))
        });
    });
}

fn keyed(c: &mut Criterion) {
    for addresses in [1, 10_000, 200_000] {
        let table = Keyed::new(AMPLE, SEED).expect("a valid rate");
        // A stride, so that one client's cache lines have gone cold before it comes again.
        let mut client = 0;
        let mut ticks = START;
        let mut next = || {
            client = (client + 77_773) % addresses;
            ticks += 10_000;
            (key(client), at(ticks))
        };
        for _ in 0..2 * addresses {
            let (key, now) = next();
            table.admit(key, now);
        }
        c.bench_function(&format!("keyed/among {addresses}"), |b| {
            b.iter_batched(&mut next, |(key, now)| black_box(table.admit(key, now)), BatchSize::SmallInput);
        });
    }
    let flooded = table();
    let mut stranger = 0;
    let mut next = || {
        stranger += 1;
        (key(stranger), at(START + u64::from(stranger) * 12_000))
    };
    for _ in 0..2_000_000 {
        let (key, now) = next();
        flooded.admit(key, now);
    }
    c.bench_function("keyed/a stranger in a flood", |b| {
        b.iter_batched(&mut next, |(key, now)| black_box(flooded.admit(key, now)), BatchSize::SmallInput);
    });
}

/// Time per request of this thread while another does the same on the same window.
fn contended(c: &mut Criterion) {
    let window = Window::new(Rate { count: 1_000, per: Duration::from_nanos(MINUTE) });
    let ticks = AtomicU64::new(START);
    let stop = AtomicBool::new(false);
    let request = || window.admit(at(ticks.fetch_add(MINUTE / 1_000, Ordering::Relaxed)));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(request());
            }
        });
        c.bench_function("window/two threads", |b| {
            b.iter_custom(|times| {
                let start = Instant::now();
                for _ in 0..times {
                    black_box(request());
                }
                start.elapsed()
            });
        });
        stop.store(true, Ordering::Relaxed);
    });
}

fn main() {
    // `cargo test --benches` runs this with `--test`: the tables are for people.
    if std::env::args().any(|argument| argument == "--bench") {
        print_false_refusals();
        print_floods();
    }
    let mut criterion = Criterion::default().configure_from_args();
    window(&mut criterion);
    keyed(&mut criterion);
    contended(&mut criterion);
    criterion.final_summary();
}
