//! Long answers: nothing is held back, nothing piles up, nothing goes on for nobody.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::harness::axon::{Axon, Reply};
use crate::harness::client::Client;
use crate::harness::gateway::{BODY, Gateway, Setup, asking, signing};

const PART: usize = 256 << 10;
/// What the kernel holds for the two connections at most, by Linux's defaults (4 MiB to send and 6 MiB to
/// receive each), with room for a machine that gives more, and Orbit's own few buffers.
const BUFFERS_MAX: usize = 32 << 20;

async fn before(axon: &Axon) -> Gateway {
    let gateway = Setup::new(&[axon.url()]).start().await;
    axon.connected(1).await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_holds_axon_back_and_then_gets_every_byte() {
    for content_type in ["text/event-stream", "application/x-ndjson", "application/octet-stream"] {
        let axon = Axon::start();
        let gateway = before(&axon).await;
        let (reply, stream) = Reply::stream(content_type);
        axon.next([reply]);
        let mut client = asking(&gateway).await;
        client.read_head().await;
        let mut offered = 0;
        loop {
            offered += PART;
            // Nothing is told of a write that waits, so that it does not end is told by time.
            let taken = timeout(Duration::from_millis(500), stream.send(vec![b'x'; PART])).await;
            if taken.is_err() {
                break;
            }
            assert!(offered < 3 * BUFFERS_MAX, "{content_type}: {offered} bytes went somewhere");
        }
        assert!(offered <= BUFFERS_MAX + PART, "{content_type}: {offered} bytes are held for one slow reader");
        stream.finish();
        let mut seen = 0;
        while let Some(part) = client.read_chunk().await {
            assert!(part.iter().all(|byte| *byte == b'x'));
            seen += part.len();
        }
        assert_eq!(seen, offered, "{content_type}");
    }
}

/// The time from the request to the first event of an event stream.
async fn first_event(client: &mut Client, request: &[u8], axon: &Axon) -> Duration {
    let (reply, stream) = Reply::event_stream();
    axon.next([reply]);
    let began = Instant::now();
    client.send(request).await;
    stream.send("data: 1\n\n").await;
    client.read_head().await;
    assert_eq!(client.read_event().await.as_deref(), Some("data: 1\n\n"));
    let took = began.elapsed();
    stream.finish();
    assert_eq!(client.read_event().await, None);
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_waits_for_nothing() {
    const ROUNDS: usize = 100;
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let direct = format!("POST /dispatch HTTP/1.1\r\nHost: axon\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let signed = gateway.dispatch(BODY).sign(&signing(), gateway.now()).bytes();
    let (mut straight, mut through) = (Client::connect(axon.addr()).await, Client::connect(gateway.addr()).await);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        without.push(first_event(&mut straight, direct.as_bytes(), &axon).await);
        with.push(first_event(&mut through, &signed, &axon).await);
    }
    let (without, with) = (median(without), median(with));
    println!("first event after {without:?} straight from Axon, {with:?} through Orbit");
    // Far from the truth on any machine, and less than any timer that something could wait for.
    assert!(with < without + Duration::from_millis(30), "{without:?} without, {with:?} with Orbit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_upstream_within_milliseconds() {
    let axon = Axon::start();
    let gateway = before(&axon).await;
    let mut times = Vec::new();
    for n in 1..=20 {
        let (reply, stream) = Reply::event_stream();
        axon.next([reply]);
        let mut client = asking(&gateway).await;
        stream.send("data: 1\n\n").await;
        client.read_head().await;
        client.read_event().await;
        let left = Instant::now();
        drop(client);
        stream.gone().await;
        times.push(left.elapsed());
        axon.abandoned(n).await;
    }
    let took = median(times);
    println!("the upstream ended {took:?} after its client left");
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_for_longer_than_an_answer_may_take_to_begin() {
    let axon = Axon::start();
    let timeouts = "timeouts: { connect: 1s, first_byte: 100ms, idle: 10s, total: 1h }";
    let gateway = Setup::new(&[]).upstream(&[axon.url()], timeouts).start().await;
    axon.connected(1).await;
    let (reply, stream) = Reply::event_stream();
    axon.next([reply]);
    let mut client = asking(&gateway).await;
    client.read_head().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        stream.send("data: 1\n\n").await;
        assert_eq!(client.read_event().await.as_deref(), Some("data: 1\n\n"));
    }
    stream.finish();
    assert_eq!(client.read_event().await, None);
}
