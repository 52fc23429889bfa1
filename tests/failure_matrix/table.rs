//! The table: what Axon does, and what comes of it. The tests beside it play every row, and the page of
//! failures tells it.

use crate::harness::axon::{Accept, Gate, Reply};
use crate::harness::check::Kind;

/// A way to fail.
pub struct Row {
    /// What Axon does, after the word "Axon".
    pub does: &'static str,
    pub how: How,
    /// What comes of it on a new connection, and on one that has served a request before; `None` where there is
    /// no such thing.
    pub fresh: Option<Expected>,
    pub reused: Option<Expected>,
}

pub enum How {
    /// Nobody listens any more.
    Refuse,
    /// Connects are not answered.
    Swallow,
    /// A connection ends before anything is read.
    Drop(Accept),
    /// A connection ends after an answer, while nobody uses it.
    EndIdle,
    Answer(Reply),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// If no other backend is asked.
    pub client: Gets,
    pub again: Again,
    pub after: After,
    /// `outcome` in `orbit_axon_requests_total`.
    pub outcome: &'static str,
    /// How the message of the log line begins.
    pub says: &'static str,
}

/// What the client gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gets {
    /// An answer of this kind.
    As(Kind),
    /// 503 with this issue.
    Issue(&'static str),
    /// 500.
    Internal,
    /// 200 and a body that is visibly incomplete.
    CutOff,
}

/// What it means for the backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    /// A failure, which `eject.consecutive` counts so many times.
    Failed(u32),
    /// No more requests until a connect works.
    Unreachable,
    /// As [`After::Unreachable`] when connecting failed, else two failures.
    Either,
}

/// Whether another backend is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Nothing was sent.
    Always,
    /// As [`Again::Always`] when the end is seen before the request is sent, else as [`Again::Repeatable`].
    UnlessSent,
    /// Axon may have begun, so only if that does no harm.
    Repeatable,
    Never,
}

pub struct Group {
    pub title: &'static str,
    pub rows: Vec<Row>,
}

pub const OBJECT: &str = r#"{"message":"Axon heartbeat OK","service":"axon"}"#;
/// The most that is put into an envelope here; a larger answer is passed through.
pub const ENVELOPE: &str = "1KiB";

// What the log says.
const CLOSED: &str = "connection closed before the head of an answer";
const RESET: &str = "connection error: Connection reset by peer (os error 104)";
const SHORT: &str = "connection closed within the answer";
const RESET_IN_BODY: &str = "connection error within the answer: Connection reset by peer (os error 104)";
const BAD_CHUNK: &str = "malformed chunks: chunk size is not plain hexadecimal";
const NO_HTTP: &str = "not HTTP/1: its first line is no status line";
const LARGE_HEAD: &str = "its head is too large";
const LATE: &str = "no answer in time";
const SLOW: &str = "answer took too long";

pub fn matrix() -> Vec<Group> {
    use After::{Either, Failed, Nothing, Unreachable};
    use Again::{Always, Never, Repeatable, UnlessSent};
    use Gets::{As, CutOff, Internal, Issue};

    let row = |does, how: How, expected: Expected| {
        let fresh = (!matches!(how, How::EndIdle)).then_some(expected);
        let mut reused = (!matches!(how, How::Swallow | How::Drop(_))).then_some(expected);
        if let Some(reused) = &mut reused
            && matches!(expected.says, CLOSED | RESET)
        {
            // A connection that was idle may be ended in all order.
            reused.after = Nothing;
        }
        Row { does, how, fresh, reused }
    };
    let expected = |client, again, after, outcome, says| Expected { client, again, after, outcome, says };
    let unconnected = |says| expected(Issue("connect_failed"), Always, Unreachable, "connect_failed", says);
    let dropped = |says| expected(Issue("upstream_failed"), UnlessSent, Either, "broken", says);
    let broken = |again, says| expected(Issue("upstream_failed"), again, Failed(2), "broken", says);
    let late = |again, says| expected(Issue("timeout"), again, Failed(2), "timeout", says);
    let fine = expected(As(Kind::Success), Never, Nothing, "success", "Axon heartbeat OK");
    let passed = expected(As(Kind::Passed), Never, Nothing, "success", "passed through");
    let cut = |outcome, says| expected(CutOff, Never, Failed(2), outcome, says);
    let internal = |after, says| expected(Internal, Never, after, "error", says);
    let unavailable = |says| expected(Issue("upstream_unavailable"), Never, Failed(1), "error", says);

    let answer = |does, reply: Reply, expected| row(does, How::Answer(reply), expected);
    let raw = |does, bytes: &str, expected| row(does, How::Answer(Reply::raw(bytes)), expected);
    let object = || Reply::json(200, OBJECT);
    let text = || Reply::typed(200, "text/plain", "hello");
    let coded = || Reply::chunked(200, ["[1,", "2]"]).header("Content-Encoding", "gzip");
    let half_head = || Reply::raw("HTTP/1.1 200 OK\r\nContent-Le");
    let hints = |n: usize| (0..n).fold(object(), |reply, _| reply.interim(103, &[("Link", "</a>")]));
    let many_fields = (0..200).fold(object(), |reply, n| reply.header(&format!("X-{n}"), "1"));
    let endless_hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(50_000);
    let open = Gate::new();
    open.release();

    vec![
        Group {
            title: "No connection",
            rows: vec![
                row("refuses connections", How::Refuse, unconnected("connect failed: connection refused")),
                row("does not take the connection", How::Swallow, unconnected("connect timed out")),
                row("closes each connection at once", How::Drop(Accept::Close), dropped(CLOSED)),
                row("resets each connection at once", How::Drop(Accept::Reset), dropped(RESET)),
                row("closes a connection while it is idle", How::EndIdle, fine),
            ],
        },
        Group {
            title: "No answer",
            rows: vec![
                answer("closes instead of answering", Reply::hang_up(), broken(Repeatable, CLOSED)),
                answer("resets instead of answering", Reply::hang_up().then_reset(), broken(Repeatable, RESET)),
                answer("closes as the request arrives", Reply::hang_up().at_head(), broken(Repeatable, CLOSED)),
                answer(
                    "resets as the request arrives",
                    Reply::hang_up().then_reset().at_head(),
                    broken(Repeatable, RESET),
                ),
                answer("never answers", Reply::hang(), late(Repeatable, LATE)),
            ],
        },
        Group {
            title: "Half a head",
            rows: vec![
                answer("closes within its head", half_head(), broken(Repeatable, CLOSED)),
                answer("resets within its head", half_head().then_reset(), broken(Repeatable, RESET)),
                answer("is too slow with its head", half_head().then_hang(), late(Repeatable, LATE)),
                answer("pauses within its head", object().pause_in_head(&open), fine),
            ],
        },
        Group {
            title: "Half a body",
            rows: vec![
                answer("closes within a body of known length", object().cut(5), broken(Never, SHORT)),
                answer(
                    "resets within a body of known length",
                    object().cut(5).then_reset(),
                    broken(Never, RESET_IN_BODY),
                ),
                answer("is too slow with a body of known length", object().cut(5).then_hang(), late(Never, SLOW)),
                answer("closes between head and body", object().cut(0), broken(Never, SHORT)),
                answer("closes within a chunk", Reply::chunked(200, [OBJECT]).cut(9), broken(Never, SHORT)),
                answer("closes within a chunk size", Reply::chunked(200, [OBJECT]).cut(1), broken(Never, SHORT)),
                answer(
                    "closes before the last chunk",
                    Reply::chunked(200, [OBJECT]).unterminated(),
                    broken(Never, SHORT),
                ),
                answer(
                    "is too slow with the last chunk",
                    Reply::chunked(200, [OBJECT]).unterminated().then_hang(),
                    late(Never, SLOW),
                ),
                answer("pauses within its body", object().pause_in_body(5, &open), fine),
                answer("closes within a refusal", Reply::json(404, OBJECT).cut(5), broken(Never, SHORT)),
                answer("is too slow with a refusal", Reply::json(404, OBJECT).cut(5).then_hang(), late(Never, SLOW)),
            ],
        },
        Group {
            title: "Half of what passes through",
            rows: vec![
                answer("closes within a text", text().cut(2), cut("broken", SHORT)),
                answer("resets within a text", text().cut(2).then_reset(), cut("broken", RESET_IN_BODY)),
                answer("is too slow with a text", text().cut(2).then_hang(), cut("timeout", SLOW)),
                answer("closes before the last chunk of what is coded", coded().unterminated(), cut("broken", SHORT)),
                answer("closes within a chunk of what is coded", coded().cut(5), cut("broken", SHORT)),
                answer("is too slow with a chunk of what is coded", coded().cut(8).then_hang(), cut("timeout", SLOW)),
                raw(
                    "sends garbage after a chunk of text",
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n",
                    cut("broken", BAD_CHUNK),
                ),
            ],
        },
        Group {
            title: "No HTTP",
            rows: vec![
                raw("answers as an SSH server", "SSH-2.0-OpenSSH_9.2\r\n", broken(Repeatable, NO_HTTP)),
                raw("answers with a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", broken(Repeatable, NO_HTTP)),
                raw(
                    "answers in a future version",
                    "HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
                    broken(Repeatable, NO_HTTP),
                ),
                raw(
                    "announces two lengths",
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
                    broken(Repeatable, "more than one Content-Length"),
                ),
                raw(
                    "announces a length that is none",
                    "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
                    broken(Repeatable, "its Content-Length is not a number"),
                ),
                raw(
                    "sends a chunk size that is none",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
                    broken(Never, BAD_CHUNK),
                ),
                answer("sends a head over 64 KiB", object().huge_head(128 << 10), broken(Repeatable, LARGE_HEAD)),
                answer("sends 200 header fields", many_fields, broken(Repeatable, LARGE_HEAD)),
            ],
        },
        Group {
            title: "More than was asked for",
            rows: vec![
                answer("hints first", hints(1), fine),
                answer("hints a thousand times first", hints(1000), fine),
                answer("only ever hints", Reply::raw(endless_hints).then_hang(), late(Repeatable, LATE)),
                answer(
                    "switches protocols unasked",
                    Reply::switching_protocols(),
                    expected(
                        Issue("upstream_failed"),
                        Never,
                        Failed(2),
                        "error",
                        "switched protocols without being asked to",
                    ),
                ),
                answer(
                    "sends more than it announced",
                    Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{OBJECT}more", OBJECT.len()))
                        .then_hang(),
                    fine,
                ),
                answer(
                    "sends a body with a 204",
                    Reply::raw("HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nmore").then_hang(),
                    passed,
                ),
                answer(
                    "sends a body with a 304",
                    Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nmore").then_hang(),
                    internal(Nothing, "Axon answered 304"),
                ),
                answer("answers before it has read the request", object().at_head(), fine),
            ],
        },
        Group {
            title: "As HTTP/1.0 did it",
            rows: vec![
                answer("ends its answer by closing", Reply::until_close(200, OBJECT), fine),
                raw("does so in HTTP/1.1", &format!("HTTP/1.1 200 OK\r\n\r\n{OBJECT}"), fine),
                raw(
                    "answers in HTTP/1.0 with a length",
                    &format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{OBJECT}", OBJECT.len()),
                    fine,
                ),
                answer("closes after its answer, unannounced", object().then_close(), fine),
            ],
        },
        Group {
            title: "Its own word for it",
            rows: vec![
                answer("answers 500", Reply::json(500, r#"{"error":"x"}"#), internal(Failed(1), "Axon answered 500")),
                answer(
                    "answers 500 in text",
                    Reply::typed(500, "text/html", "<h1>"),
                    internal(Failed(1), "Axon answered 500"),
                ),
                answer(
                    "answers 500 and closes within it",
                    Reply::json(500, OBJECT).cut(5),
                    internal(Failed(1), "Axon answered 500"),
                ),
                answer(
                    "answers 500 and stops within it",
                    Reply::json(500, OBJECT).cut(5).then_hang(),
                    internal(Failed(1), "Axon answered 500"),
                ),
                answer("answers 501", Reply::json(501, "{}"), internal(Nothing, "Axon answered 501")),
                answer("answers 502", Reply::typed(502, "text/html", "<h1>"), unavailable("Axon answered 502")),
                answer("answers 503", Reply::json(503, "{}"), unavailable("Axon answered 503")),
                answer(
                    "answers 503 and stops within it",
                    Reply::json(503, OBJECT).cut(5).then_hang(),
                    unavailable("Axon answered 503"),
                ),
                answer("answers 504", Reply::new(504), unavailable("Axon answered 504")),
                answer("answers 505", Reply::json(505, "{}"), internal(Nothing, "Axon answered 505")),
                answer("makes up a status", Reply::json(999, "{}"), internal(Nothing, "Axon answered 999")),
                answer(
                    "redirects",
                    Reply::typed(302, "text/plain", "over there").header("Location", "http://other/"),
                    internal(Nothing, "Axon answered 302"),
                ),
            ],
        },
    ]
}
