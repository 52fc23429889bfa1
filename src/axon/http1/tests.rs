//! A connection over a socket whose other end the test holds.

use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderValue, Method, Uri};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::axon::socket::Socket;

async fn pair() -> (Box<Http1>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let stream = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    let (axon, _) = listener.accept().await.expect("accept");
    axon.set_nodelay(true).expect("no delay");
    (Http1::new(Stream::Plain(Socket::new(stream))), axon)
}

fn asking(body: impl Into<Bytes>) -> Asking<'static> {
    static TARGET: LazyLock<Uri> = LazyLock::new(|| Uri::from_static("/dispatch?a=b"));
    static AUTHORITY: HeaderValue = HeaderValue::from_static("axon:80");
    let mut asking = Asking::new(Method::POST, &TARGET, &AUTHORITY, body.into());
    asking.add_number("content-length", asking.body.len());
    asking
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("in time")
}

/// Reads a request whole; its head.
async fn read_request(axon: &mut TcpStream, body: usize) -> String {
    let mut read = BytesMut::new();
    loop {
        axon.read_buf(&mut read).await.expect("a request");
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        while read.len() < end + 4 + body {
            axon.read_buf(&mut read).await.expect("a request");
        }
        assert_eq!(read.len(), end + 4 + body);
        return String::from_utf8(read.split_to(end).to_vec()).expect("text");
    }
}

async fn read_body(connection: &mut Http1, mut body: Body) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    while let Some(part) = connection.next(&mut body).await {
        data.extend_from_slice(&part.map_err(|why| why.into_owned())?);
    }
    assert!(body.is_end_stream());
    Ok(data)
}

/// One exchange; the status and body of its answer.
async fn exchange(connection: &mut Http1, axon: &mut TcpStream, answer: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
    let scripted = async {
        read_request(axon, 2).await;
        axon.write_all(answer).await.expect("an answer");
    };
    let asked = async {
        let (head, body) = connection.send(asking("{}")).await?;
        Ok((head.status.as_u16(), read_body(connection, body).await.expect("a body")))
    };
    within(async { tokio::join!(asked, scripted).0 }).await
}

#[tokio::test]
async fn a_request_is_what_was_asked_whatever_its_size() {
    for size in [0, 2, SMALL, SMALL + 1, 3 << 20] {
        let (mut connection, mut axon) = pair().await;
        let scripted = async {
            let head = read_request(&mut axon, size).await;
            axon.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
            head
        };
        let (sent, head) = within(async { tokio::join!(connection.send(asking(vec![b'x'; size])), scripted) }).await;
        sent.expect("an answer");
        assert_eq!(head, format!("POST /dispatch?a=b HTTP/1.1\r\nhost: axon:80\r\ncontent-length: {size}"));
        assert!(connection.settle(1), "{size}");
    }
}

const SMALL: usize = 16 * 1024;

/// The moment between the look at an idle connection and its use, in which its end arrives.
#[tokio::test]
async fn a_request_is_given_back_when_the_end_is_met_before_a_byte_is_written() {
    let (mut connection, mut axon) = pair().await;
    exchange(&mut connection, &mut axon, b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
    assert!(connection.settle(0));

    drop(axon);
    happened().await;
    let failed = within(connection.send(asking("{}"))).await;
    assert!(matches!(failed, Err(Failure::Unsent)));
}

/// What happened later is seen later: once a connection made now has brought something, so have all others.
async fn happened() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut later = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    listener.accept().await.expect("accept").0.write_all(b"!").await.expect("write");
    assert_eq!(later.read_u8().await.expect("read"), b'!');
}

#[tokio::test]
async fn a_connection_is_used_again_only_where_nothing_is_in_doubt() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    for (answer, again) in [
        (format!("{length}\r\n{{}}"), true),
        (chunked.to_owned(), true),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_owned(), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), true),
        (format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n{length}\r\n{{}}"), true),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}".to_owned(), true),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(), false),
        (format!("{length}Connection: close\r\n\r\n{{}}"), false),
        (format!("{length}\r\n{{}}\r\n"), false),
        (format!("{chunked}x"), false),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nmore".to_owned(), false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nmore".to_owned(), false),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), false),
    ] {
        let (mut connection, mut axon) = pair().await;
        exchange(&mut connection, &mut axon, answer.as_bytes()).await.expect("an answer");
        assert_eq!(connection.settle(1), again, "{answer:?}");
        if again {
            assert_eq!((connection.read.capacity(), connection.upload.is_done()), (0, true), "{answer:?}");
            exchange(&mut connection, &mut axon, answer.as_bytes()).await.expect("another answer");
        }
    }
}

#[tokio::test]
async fn what_an_idle_connection_says_or_that_it_ends_makes_it_useless() {
    for speaks in [true, false] {
        let (mut connection, mut axon) = pair().await;
        exchange(&mut connection, &mut axon, b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("an answer");
        assert!(connection.settle(1) && connection.look(2));
        if speaks {
            axon.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.expect("write");
        } else {
            axon.shutdown().await.expect("an end");
        }
        happened().await;
        assert!(!connection.look(3), "speaks: {speaks}");
    }
}

#[tokio::test]
async fn an_exchange_that_was_not_finished_leaves_nothing_to_use() {
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        read_request(&mut axon, 2).await;
        axon.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.expect("half an answer");
    };
    let (sent, ()) = within(async { tokio::join!(connection.send(asking("{}")), scripted) }).await;
    let (_, mut body) = sent.expect("a head");
    assert!(!connection.is_open());
    assert_eq!(within(connection.next(&mut body)).await, Some(Ok(Bytes::from("he"))));
    assert!(!connection.settle(1));
    drop(axon);
    assert_eq!(within(connection.next(&mut body)).await, Some(Err(CUT_OFF.into())));
}

#[tokio::test]
async fn what_is_no_answer_is_told_as_such() {
    for (answer, why) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/1: its first line is no status line"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "more than one Content-Length"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2 OK\r\n\r\n", "not HTTP/1: its first line is no status line"),
    ] {
        let (mut connection, mut axon) = pair().await;
        let failed = exchange(&mut connection, &mut axon, answer.as_bytes()).await;
        assert!(matches!(&failed, Err(Failure::Unreadable(said)) if said == why), "{answer:?}: {failed:?}");
        assert!(!connection.settle(1));
    }
}

#[tokio::test]
async fn interim_answers_end_at_some_point() {
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        read_request(&mut axon, 2).await;
        let interim = b"HTTP/1.1 100 \r\n\r\n".repeat(INTERIM_MAX as usize / 10);
        // It stops listening in between.
        while axon.write_all(&interim).await.is_ok() {}
    };
    let asked = async {
        let failed = connection.send(asking("{}")).await;
        drop(connection);
        failed
    };
    let (failed, ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert!(matches!(failed, Err(Failure::Unreadable(why)) if why == "interim answers without end"));
}

/// Nobody reads the rest of the request, so whoever sends it all before listening would wait for ever.
#[tokio::test]
async fn an_answer_is_heard_while_the_request_is_still_being_sent() {
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        axon.read_exact(&mut [0; 4]).await.expect("a beginning");
        axon.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}").await.expect("an answer");
    };
    let asked = async {
        let (head, body) = connection.send(asking(vec![0; 32 << 20])).await.expect("an answer");
        (head.status, read_body(&mut connection, body).await)
    };
    let ((status, body), ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert_eq!((status, body), (StatusCode::PAYLOAD_TOO_LARGE, Ok(b"{}".to_vec())));
    assert!(!connection.settle(1), "half a request is on it");
}

/// An Axon that answers as it reads needs the rest of the request for the rest of its answer.
#[tokio::test]
async fn the_rest_of_a_request_is_sent_while_its_answer_is_read() {
    const SIZE: usize = 16 << 20;
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        axon.read_exact(&mut [0; 4]).await.expect("a beginning");
        axon.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n").await.expect("half");
        let head = "POST /dispatch?a=b HTTP/1.1\r\nhost: axon:80\r\ncontent-length: 16777216\r\n\r\n".len();
        let mut rest = vec![0; head + SIZE - 4];
        axon.read_exact(&mut rest).await.expect("the rest");
        axon.write_all(b"3\r\nllo\r\n0\r\n\r\n").await.expect("the other half");
    };
    let asked = async {
        let (_, body) = connection.send(asking(vec![0; SIZE])).await.expect("an answer");
        read_body(&mut connection, body).await
    };
    let (body, ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert_eq!(body, Ok(b"hello".to_vec()));
    assert!(connection.settle(1));
}

#[tokio::test]
async fn a_waiting_connection_holds_no_buffer() {
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        read_request(&mut axon, 2).await;
        axon.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n").await.expect("half");
    };
    let (sent, ()) = within(async { tokio::join!(connection.send(asking("{}")), scripted) }).await;
    let (_, mut body) = sent.expect("a head");
    assert_eq!(within(connection.next(&mut body)).await, Some(Ok(Bytes::from("he"))));
    // The chunk's own end may come later.
    let waiting = timeout(Duration::from_millis(10), connection.next(&mut body)).await;
    assert!(waiting.is_err());
    assert_eq!((connection.read.capacity(), connection.upload.is_done()), (0, true));
}

#[tokio::test]
async fn a_large_body_comes_in_large_pieces_and_a_small_one_in_a_place_of_its_size() {
    let (mut connection, mut axon) = pair().await;
    let size = 4 << 20;
    let answer = [format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes(), vec![b'x'; size]].concat();
    let scripted = async {
        read_request(&mut axon, 2).await;
        axon.write_all(&answer).await.expect("an answer");
    };
    let asked = async {
        let (_, mut body) = connection.send(asking("{}")).await.expect("an answer");
        let mut pieces = Vec::new();
        while let Some(piece) = connection.next(&mut body).await {
            pieces.push(piece.expect("a piece").len());
        }
        pieces
    };
    let (pieces, ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert_eq!(pieces.iter().sum::<usize>(), size);
    assert!(pieces.iter().all(|piece| *piece <= LARGE_PIECE_BYTES), "{pieces:?}");
    assert!(pieces.contains(&LARGE_PIECE_BYTES), "{pieces:?}");
    assert!(connection.settle(1));
}

#[tokio::test]
async fn a_body_that_is_gathered_comes_as_one_piece() {
    const SIZE: usize = 1 << 20;
    let (mut connection, mut axon) = pair().await;
    let scripted = async {
        read_request(&mut axon, 2).await;
        axon.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\nbegin").as_bytes())
            .await
            .expect("a head");
        axon.write_all(&vec![b'x'; SIZE - 5]).await.expect("a body");
    };
    let asked = async {
        let (_, mut body) = connection.send(asking("{}")).await.expect("an answer");
        connection.gather(&body);
        let mut pieces = Vec::new();
        while let Some(piece) = connection.next(&mut body).await {
            pieces.push(piece.expect("a piece"));
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    };
    let (pieces, ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert!(pieces.len() == 1 && pieces[0].len() == SIZE && pieces[0].starts_with(b"beginx"));
    assert!(connection.settle(1));
    assert_eq!(connection.read.capacity(), 0);

    // What is whole already is given as it is, and one that breaks off is not.
    let whole = exchange(&mut connection, &mut axon, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(whole.expect("an answer").1, b"{}");
    let scripted = async {
        read_request(&mut axon, 2).await;
        axon.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.expect("half");
        axon.shutdown().await.expect("an end");
    };
    let asked = async {
        let (_, mut body) = connection.send(asking("{}")).await.expect("an answer");
        connection.gather(&body);
        loop {
            match connection.next(&mut body).await {
                Some(Ok(piece)) => assert!(piece.is_empty()),
                end => return end,
            }
        }
    };
    let (end, ()) = within(async { tokio::join!(asked, scripted) }).await;
    assert_eq!(end, Some(Err(CUT_OFF.into())));
}

// ---- any split of an answer into reads is the same answer

/// What an answer was read as, however it came; `None` for a fault.
#[derive(Debug, PartialEq)]
struct Read {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
    ended: bool,
    behind: Vec<u8>,
    kept: bool,
}

/// Reads an answer that comes in these pieces, the last of which ends the connection if `ends`.
fn read(pieces: &[&[u8]]) -> Result<Option<Read>, Malformed> {
    let (mut read, mut search) = (BytesMut::new(), Search::default());
    let mut answer: Option<(Head, Vec<u8>)> = None;
    for piece in pieces {
        read.extend_from_slice(piece);
        while answer.is_none()
            && let Some(end) = search.end(&read)?
        {
            let head = Head::parse(&read.split_to(end).freeze())?;
            search = Search::default();
            if !head.parts.status.is_informational() {
                answer = Some((head, Vec::new()));
            }
        }
        if let Some((head, data)) = &mut answer {
            while let Some(part) = head.body.take(&mut read).map_err(|sloppy| Malformed(sloppy.0))? {
                data.extend_from_slice(&part);
            }
        }
    }
    Ok(answer.map(|(head, body)| Read {
        status: head.parts.status.as_u16(),
        headers: head.parts.headers,
        body,
        ended: head.body.is_end_stream(),
        behind: read.to_vec(),
        kept: head.keeps_connection,
    }))
}

fn an_answer() -> impl Strategy<Value = Vec<u8>> {
    let fields = proptest::collection::vec(("[a-zA-Z][a-zA-Z0-9-]{0,12}", "[ -~]{0,20}"), 0..6);
    let chunks = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5);
    let parts = (0..4u8, any::<bool>(), fields, chunks, "[ -~\r\n]{0,12}", 200..600u16);
    parts.prop_map(|(framing, interim, fields, chunks, behind, status)| {
        let mut answer = if interim { b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec() } else { Vec::new() };
        answer.extend_from_slice(format!("HTTP/1.1 {status} Any\r\n").as_bytes());
        for (name, value) in &fields {
            answer.extend_from_slice(format!("X-{name}: {value}\r\n").as_bytes());
        }
        let whole = chunks.concat();
        match framing {
            0 => answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", whole.len()).as_bytes()),
            1 => answer.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n"),
            _ => answer.extend_from_slice(b"\r\n"),
        }
        match framing {
            1 => {
                for chunk in &chunks {
                    answer.extend_from_slice(format!("{:x};ext\r\n", chunk.len()).as_bytes());
                    answer.extend_from_slice(chunk);
                    answer.extend_from_slice(b"\r\n");
                }
                answer.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
            }
            _ => answer.extend_from_slice(&whole),
        }
        answer.extend_from_slice(behind.as_bytes());
        answer
    })
}

proptest! {
    #[test]
    fn any_split_of_an_answer_is_the_same_answer(
        answer in an_answer(),
        mut at in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        spoilt in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut answer = answer;
        if let Some((place, byte)) = spoilt {
            let place = place.index(answer.len());
            answer[place] = byte;
        }
        let whole = read(&[&answer]);
        let bytewise = read(&answer.chunks(1).collect::<Vec<_>>());
        let mut cuts: Vec<usize> = at.drain(..).map(|index| index.index(answer.len())).collect();
        cuts.extend([0, answer.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &answer[cut[0]..cut[1]]).collect();
        let split = read(&pieces);
        // Which of several faults is met first may differ.
        prop_assert_eq!(whole.as_ref().ok(), bytewise.as_ref().ok());
        prop_assert_eq!(whole.as_ref().ok(), split.as_ref().ok());
        if spoilt.is_none() {
            prop_assert!(whole.is_ok_and(|read| read.is_some()));
        }
    }
}
