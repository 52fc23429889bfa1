//! `docs/failure-modes.md`: the table for operators. The part that a load program measures is kept as it stands.

use super::table::{After, Again, Expected, Gets, Row, matrix};
use crate::harness::check::Kind;
use crate::harness::page::{checked_in, same_as};

const PAGE: &str = "docs/failure-modes.md";

const MEASURED: &str = "<!-- Measured: `benches/load/failures --write` writes this part anew. -->";

const INTRODUCTION: &str = "# When Axon fails

<!-- Generated: `ORBIT_BLESS=1 cargo test the_page_of` writes this file anew. -->

What Orbit does about an Axon that fails, row by row as the tests play it on the real gateway \
(`tests/failure_matrix/table.rs`), then what clients noticed of it under load.

- **The client gets**: unless another backend is asked and answers, which is then the answer. 503 carries `Retry-After` \
and its `details.issue`.
- **Asked again**: whether the request is sent again, to another backend where there is one. *Always*: nothing of it \
was sent. *If it is idempotent*: Axon may have begun, so only a `GET`, a dispatch with an `Idempotency-Key`, or any by \
`retry.idempotent`; within `retry.attempts`, `retry.budget` and `timeouts.total`. *Never*: the answer had begun.
- **For the backend**: failures count towards `eject.consecutive` in a row, or half of its last 32 answers; one that is \
unreachable gets no more requests until a connect works. What is *nothing* leaves it in use. Changes of state are log \
lines (`backend HOST:PORT is ejected, for 937.5ms at least: …`), `orbit_backend_state` and `orbit_backend_out_total`.
- **Counted as**: `outcome` of `orbit_axon_requests_total` for that backend.
- **The log says**: after `AXON_CALL [correlation id] outcome: `. One such line for each backend that was asked; the \
`REFUSED` and `REQUEST` lines with the same identifier tell what the client got.
";

fn row(does: &str, expected: Expected) -> String {
    let Expected { client, again, after, outcome, says } = expected;
    let (client, again, after) = (gets(client), asked_again(again), means(after));
    format!("| {does} | {client} | {again} | {after} | `{outcome}` | {says} |\n")
}

fn gets(client: Gets) -> String {
    match client {
        Gets::As(Kind::Success) => "Axon's answer".to_owned(),
        Gets::As(Kind::Passed) => "Axon's answer, passed through".to_owned(),
        Gets::As(other) => panic!("no words for {other:?}"),
        Gets::Issue(issue) => format!("503 `{issue}`"),
        Gets::Internal => "500".to_owned(),
        Gets::CutOff => "200, cut off visibly".to_owned(),
    }
}

fn means(after: After) -> &'static str {
    match after {
        After::Nothing => "nothing",
        After::Failed(1) => "one failure",
        After::Failed(_) => "two failures",
        After::Unreachable => "unreachable",
        After::Either => "two failures, or unreachable",
    }
}

fn asked_again(again: Again) -> &'static str {
    match again {
        Again::Always => "always",
        Again::UnlessSent => "if nothing of it was sent, or it is idempotent",
        Again::Repeatable => "if it is idempotent",
        Again::Never => "never",
    }
}

fn rows(row_of: &Row) -> String {
    let does = row_of.does;
    match (row_of.fresh, row_of.reused) {
        (Some(fresh), Some(reused)) if fresh != reused => {
            row(&format!("{does}, on a new connection"), fresh) + &row(&format!("{does}, on a used connection"), reused)
        }
        (Some(expected), _) | (None, Some(expected)) => row(does, expected),
        (None, None) => panic!("{does} on no connection at all"),
    }
}

#[test]
fn the_page_of_failures_is_what_the_tests_play() {
    let mut page = INTRODUCTION.to_owned();
    for group in matrix() {
        page += &format!("\n## {}\n\n", group.title);
        page += "| Axon… | the client gets | asked again | for the backend | counted as | the log says |\n|---|---|---|---|---|---|\n";
        page.extend(group.rows.iter().map(rows));
    }
    let checked_in = checked_in(PAGE);
    let measured = checked_in.find(MEASURED).map_or(MEASURED, |at| &checked_in[at..]);
    page += &format!("\n## Under load\n\n{}\n", measured.trim_end());
    same_as(PAGE, &page);
}
