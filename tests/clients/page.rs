//! The page that tells which clients are tested and what each gets wrong.

use std::collections::BTreeSet;

use super::cases;
use super::table::{CLIENTS, Client, Departure, FAULTS, Fault, Source};
use crate::harness::page::same_as;

#[test]
fn the_page_of_client_faults_is_what_the_tests_say() {
    let mut page = String::from(
        "# Clients and their faults\n\n\
         <!-- Generated: `ORBIT_BLESS=1 cargo test the_page_of` writes this file anew. -->\n\n\
         The test suite has each of these clients sign every case below and send it to the running gateway. All is \
         accepted but what is listed as refused, and a listed fault that no longer shows fails the suite. Whether a \
         client departs from the specification is judged by AWS's own signer for Rust, which signs again what the \
         client sent (presigned requests aside).\n\n\
         | client | version | from | presigns | faults |\n|---|---|---|---|---|\n",
    );
    for client in &CLIENTS {
        let faults = match faults(client).count() {
            0 => "none".to_owned(),
            n => format!("[{n}](#{})", anchor(client.name)),
        };
        let presigns = if client.presigns { "yes" } else { "no" };
        let source = source(client);
        page += &format!("| {} | {} | {source} | {presigns} | {faults} |\n", client.name, client.version);
    }
    page += "\nThe cases: ";
    page += &cases::all().iter().map(|case| case.name).collect::<Vec<_>>().join("; ");
    page += ".\n\nA dispatch needs no query. One of sorted `name=value` pairs of unreserved characters, and headers without \
             runs of spaces, pass from every client.\n\nboto3 is a client that it makes of a service model with the \
             signing name `execute-api`; aws-sdk is the JavaScript SDK v2 with `AWS.Signers.V4`; curl is `--aws-sigv4`. \
             Only clients that sign in the query are asked for the presigned cases.\n";
    for client in CLIENTS.iter().filter(|client| faults(client).next().is_some()) {
        page += &format!("\n## {}\n\n| case | Orbit | reason |\n|---|---|---|\n", client.name);
        for fault in faults(client) {
            let orbit = match fault.departure {
                Departure::Refused(issue) => format!("refuses, `{issue}`"),
                Departure::Tolerated => "accepts all the same".to_owned(),
                Departure::Altered => "accepts what was sent, which is something else".to_owned(),
                Departure::Impossible => "cannot be sent".to_owned(),
            };
            page += &format!("| {} | {orbit} | {} |\n", fault.cases.join("; "), fault.reason);
        }
    }
    page += "\nWhat Orbit accepts all the same binds method, path, query, headers and body as firmly as the \
             specification's form does. No other form is tried.\n";
    same_as("docs/client-faults.md", &page);
}

#[test]
fn every_fault_is_of_a_known_client_and_case_and_listed_once() {
    let known: BTreeSet<&str> = cases::all().iter().map(|case| case.name).collect();
    let mut seen = BTreeSet::new();
    for fault in &FAULTS {
        assert!(CLIENTS.iter().any(|client| client.name == fault.client), "{}", fault.client);
        for case in fault.cases {
            assert!(known.contains(case), "{case}");
            assert!(seen.insert((fault.client, case)), "{}, {case} is listed twice", fault.client);
        }
    }
}

fn faults(client: &Client) -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().filter(|fault| fault.client == client.name)
}

fn source(client: &Client) -> String {
    match client.source {
        Source::PyPi => "PyPI".to_owned(),
        Source::Npm => "npm".to_owned(),
        Source::Debian => format!("Debian 12, `{}`", client.package),
        Source::CratesIo => "crates.io".to_owned(),
    }
}

/// What a heading is linked by: lower case, blanks as hyphens, no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect()
}
