//! Which clients are tested, and what each gets wrong.
//!
//! Every client passes every case, but for what is listed here. A listed fault must show: if the client's next
//! version signs correctly, the test says that the line is out of date.

/// A client whose requests Orbit must understand.
pub struct Client {
    pub name: &'static str,
    /// Which its installer knows it by.
    pub package: &'static str,
    pub version: &'static str,
    pub source: Source,
    pub program: Program,
    /// Whether it can sign in the query.
    pub presigns: bool,
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    PyPi,
    Npm,
    /// As it is in the current machine's distribution, so the version may differ.
    Debian,
    CratesIo,
}

/// What runs it; see [`super::driver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Python,
    Node,
    /// The program's name under `tests/clients/go`.
    Go(&'static str),
    Curl,
    Rust,
}

/// Every client.
pub const CLIENTS: [Client; 14] = [
    Client::new("botocore", "botocore", "1.44.8", Source::PyPi, Program::Python).presigning(),
    Client::new("botocore and requests", "botocore", "1.44.8", Source::PyPi, Program::Python).presigning(),
    Client::new("boto3", "boto3", "1.44.8", Source::PyPi, Program::Python).presigning(),
    Client::new("requests-aws4auth", "requests-aws4auth", "1.4.0", Source::PyPi, Program::Python),
    Client::new("aws-requests-auth", "aws-requests-auth", "0.4.3", Source::PyPi, Program::Python),
    Client::new("awscurl", "awscurl", "0.44", Source::PyPi, Program::Python),
    Client::new("aws-sdk", "aws-sdk", "2.1693.0", Source::Npm, Program::Node),
    Client::new("@smithy/signature-v4", "@smithy/signature-v4", "5.7.5", Source::Npm, Program::Node).presigning(),
    Client::new("aws4", "aws4", "1.13.2", Source::Npm, Program::Node).presigning(),
    Client::new("aws4fetch", "aws4fetch", "1.0.20", Source::Npm, Program::Node).presigning(),
    Client::new("aws-sdk-go", "golang-github-aws-aws-sdk-go-dev", "1.44.133", Source::Debian, Program::Go("v1"))
        .presigning(),
    Client::new("aws-sdk-go-v2", "golang-github-aws-aws-sdk-go-v2-dev", "1.17.1", Source::Debian, Program::Go("v2"))
        .presigning(),
    Client::new("curl", "curl", "7.88.1", Source::Debian, Program::Curl),
    Client::new("aws-sigv4", "aws-sigv4", "1.6.4", Source::CratesIo, Program::Rust).presigning(),
];

impl Client {
    const fn new(
        name: &'static str,
        package: &'static str,
        version: &'static str,
        source: Source,
        program: Program,
    ) -> Self {
        Self { name, package, version, source, program, presigns: false }
    }

    const fn presigning(self) -> Self {
        Self { presigns: true, ..self }
    }
}

/// How a client departs from the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// Orbit refuses what it sends, with this issue.
    Refused(&'static str),
    /// Orbit accepts what it sends, in another canonical form than AWS's own signer writes.
    Tolerated,
    /// It sends, well signed, another query than it was given.
    Altered,
    /// It cannot be told to send this.
    Impossible,
}

/// A client, the cases in which it departs, how, and why.
pub struct Fault {
    pub client: &'static str,
    pub cases: &'static [&'static str],
    pub departure: Departure,
    /// A sentence about the client.
    pub reason: &'static str,
}

const BARE: &[&str] = &["query, bare plus", "query, bare reserved", "query, bare equals sign"];
const LOWER: &[&str] = &["query, escapes in lower case"];
const PRESIGNED_BODY: &[&str] =
    &["presigned, JSON body", "presigned, unicode body", "presigned, body of 100 KiB", "presigned, session token"];
const PRESIGNED_TWICE: &[&str] = &["presigned, query, one name twice"];
const MISMATCH: Departure = Departure::Refused("mismatch");

/// Every fault.
pub const FAULTS: [Fault; 22] = [
    Fault {
        client: "botocore",
        cases: BARE,
        departure: Departure::Tolerated,
        reason: "It signs the query of a URL as it is, without escaping what must be escaped.",
    },
    Fault {
        client: "botocore",
        cases: LOWER,
        departure: MISMATCH,
        reason: "Its HTTP layer, urllib3, writes escapes in upper case after they were signed in lower case.",
    },
    Fault {
        client: "botocore",
        cases: PRESIGNED_BODY,
        departure: Departure::Impossible,
        reason: "Its presigner moves the members of a body into the query.",
    },
    Fault {
        client: "botocore",
        cases: PRESIGNED_TWICE,
        departure: Departure::Altered,
        reason: "Its presigner keeps the first value of a name and drops the others.",
    },
    Fault {
        client: "botocore and requests",
        cases: BARE,
        departure: Departure::Tolerated,
        reason: "botocore signs the query of a URL as it is, without escaping what must be escaped.",
    },
    Fault {
        client: "botocore and requests",
        cases: LOWER,
        departure: MISMATCH,
        reason: "`requests` writes escapes in upper case after botocore signed them in lower case.",
    },
    Fault {
        client: "botocore and requests",
        cases: PRESIGNED_BODY,
        departure: Departure::Impossible,
        reason: "botocore's presigner moves the members of a body into the query.",
    },
    Fault {
        client: "botocore and requests",
        cases: PRESIGNED_TWICE,
        departure: Departure::Altered,
        reason: "botocore's presigner keeps the first value of a name and drops the others.",
    },
    Fault {
        client: "boto3",
        cases: PRESIGNED_BODY,
        departure: Departure::Impossible,
        reason: "botocore's presigner moves the members of a body into the query.",
    },
    Fault {
        client: "boto3",
        cases: PRESIGNED_TWICE,
        departure: Departure::Altered,
        reason: "botocore's presigner keeps the first value of a name and drops the others.",
    },
    Fault {
        client: "requests-aws4auth",
        cases: &["header with quoted spaces"],
        departure: MISMATCH,
        reason: "It keeps runs of spaces between quotation marks, which only an early version of the specification did.",
    },
    Fault {
        client: "aws-requests-auth",
        cases: &["header with inner spaces", "header with quoted spaces"],
        departure: Departure::Refused("unsigned_header"),
        reason: "It signs `host`, `x-amz-date` and the session token, and no other `x-amz-*` header.",
    },
    Fault {
        client: "aws-requests-auth",
        cases: &["query, names that begin alike"],
        departure: MISMATCH,
        reason: "It sorts `name=value` as one text, so that `a-b=` and `a1=` come before `a=`.",
    },
    Fault {
        client: "aws-requests-auth",
        cases: BARE,
        departure: Departure::Tolerated,
        reason: "It signs the query of a URL as it is, without escaping what must be escaped.",
    },
    Fault {
        client: "awscurl",
        cases: &["header with inner spaces", "header with quoted spaces"],
        departure: Departure::Tolerated,
        reason: "It trims the ends of a header's value and leaves the runs of spaces inside.",
    },
    Fault {
        client: "awscurl",
        cases: &[
            "query, escaped space",
            "query, escaped plus",
            "query, escaped percent",
            "query, escaped reserved",
            "query, unicode",
            "query, escapes in lower case",
        ],
        departure: MISMATCH,
        reason: "It escapes a query that is already escaped once more before signing it, but sends it as it was.",
    },
    Fault {
        client: "awscurl",
        cases: &["query, bare plus"],
        departure: MISMATCH,
        reason: "It signs a plus sign as `%2B`; every reader of forms, and AWS, takes a bare one for a space.",
    },
    Fault {
        client: "awscurl",
        cases: &["query, bare equals sign"],
        departure: MISMATCH,
        reason: "It cuts a parameter at every equals sign and signs only the first two parts.",
    },
    Fault {
        client: "@smithy/signature-v4",
        cases: &["query, name without `=`"],
        departure: MISMATCH,
        reason: "It leaves a name without a value out of the signature, but sends it.",
    },
    Fault {
        client: "@smithy/signature-v4",
        cases: &["query, bare plus", "query, bare equals sign"],
        departure: Departure::Altered,
        reason: "`@smithy/url-parser` takes a plus sign for itself, not for a space, and drops what follows a second \
                 equals sign.",
    },
    Fault {
        client: "curl",
        cases: &["query, not sorted", "query, one name twice", "query, name without `=`"],
        departure: MISMATCH,
        reason: "It signs the query as it is, neither sorted nor with the `=` that belongs behind each name.",
    },
    Fault {
        client: "curl",
        cases: &["query, bare plus", "query, bare reserved", "query, bare equals sign", "query, escapes in lower case"],
        departure: Departure::Tolerated,
        reason: "It signs the query as it is, without escaping what must be escaped.",
    },
];
