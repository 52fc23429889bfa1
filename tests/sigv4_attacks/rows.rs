//! The table.

use std::iter;

use sha2::{Digest, Sha256};

use super::forgery::{Forgery, hmac};
use super::{Attack, Coded, Door, Fate, Harmless, ID, NOW_BASIC, NOW_HTTP, Refused, SECRET, TEMPORARY, TODAY, TOKEN};
use crate::sigv4_suite::{Request, hex};

/// Published holes and bugs of verifiers, and the clients' and servers' quirks that came out when they were
/// compared; with the reason where there is nothing to send.
pub(super) const ADVISORIES: &[(&str, Option<&str>)] = &[
    // A kind of authentication that was recognised and then not checked.
    ("CVE-2025-31489 MinIO", None),
    ("CVE-2026-40344 MinIO", None),
    ("CVE-2026-41145 MinIO", None),
    ("SeaweedFS#7912", None),
    ("SeaweedFS#7954", None),
    ("SeaweedFS#2180", None),
    ("SeaweedFS#8878", None),
    ("apache/ozone#11061", None),
    ("gaul/s3proxy#205", None),
    ("appwrite#13515", None),
    // x-amz- headers added to a signed request.
    ("CVE-2026-54330 Ceph", None),
    ("SN-2026-011 MinIO forks", None),
    ("juicedata/minio#85", None),
    ("GHSA-g8w9-qw9q-fghr RustFS", None),
    ("GHSA-xm99-m3gq-83g8 RustFS", None),
    ("s3proxy 4.1.1", None),
    ("s3s#818", None),
    ("ceph#53525", None),
    // What is compared with nothing, or with what the request itself says.
    ("SeaweedFS#7080", None),
    ("SeaweedFS#8434", None),
    ("SeaweedFS#6698", None),
    ("SeaweedFS#6511", None),
    ("RustFS#7796", None),
    ("CVE-2026-21862 RustFS", None),
    ("s3s#616", None),
    ("s3s#771", None),
    ("s3s region from the request", None),
    ("s3s absent signed header", None),
    ("Keystone bug 1872737", None),
    ("s3s#176", None),
    ("s3s#768", None),
    ("USN-7857-1 Keystone", None),
    ("CVE-2026-43001 Keystone", None),
    ("CVE-2020-16250 Vault", None),
    ("CVE-2020-16251 Vault", None),
    ("CVE-2022-2385 aws-iam-authenticator", None),
    // Two spellings of one request.
    ("ceph#16116", None),
    ("ceph#10919", None),
    ("scratchstack single encoding", None),
    ("scratchstack absolute form", None),
    ("aws-sigv4 lossy UTF-8", None),
    ("busbar last duplicate wins", None),
    // Nothing to send.
    ("MinIO#5334", Some("comparison in constant time: `subtle` in `auth::verify`, seen in review, not on the wire")),
    ("chimera#497", Some("comparison in constant time: `subtle` in `auth::verify`, seen in review, not on the wire")),
    ("MinIO body read before authentication", Some("`over_sockets` sends these rows without their bodies")),
    ("Ceph POST forms", Some("no route reads a form: the body is JSON, and the target decides what is done")),
];

const CHUNKS: &str =
    "CVE-2025-31489 MinIO, SeaweedFS#7912, SeaweedFS#7954, apache/ozone#11061, gaul/s3proxy#205, appwrite#13515";
const INJECTED: &str = "CVE-2026-54330 Ceph, SN-2026-011 MinIO forks, juicedata/minio#85, \
     GHSA-g8w9-qw9q-fghr RustFS, GHSA-xm99-m3gq-83g8 RustFS, s3proxy 4.1.1, s3s#818";
const LOOK_ALIKE: &str = "ceph#53525";
const QUERY_ONLY: &str = "CVE-2026-41145 MinIO";
const UNKNOWN_KIND: &str = "CVE-2026-40344 MinIO, SeaweedFS#2180";
const KEYLESS: &str = "SeaweedFS#8878";
const EMPTY_HASH: &str = "SeaweedFS#7080";
const HOST: &str = "SeaweedFS#8434, SeaweedFS#6698, SeaweedFS#6511, s3s#176, s3s#768, CVE-2020-16250 Vault";
const FORWARDED: &str = "CVE-2026-21862 RustFS";
const ALGORITHM: &str = "RustFS#7796";
const CLOCK: &str = "s3s#616, s3s#771, Keystone bug 1872737";
const SCOPE: &str = "s3s region from the request";
const ABSENT: &str = "s3s absent signed header";
const PURPOSE: &str = "USN-7857-1 Keystone, CVE-2026-43001 Keystone, CVE-2020-16251 Vault";
const PLUS: &str = "ceph#16116, ceph#10919";
const ENCODING: &str = "scratchstack single encoding";
const FOREIGN: &str = "scratchstack absolute form";
const LOSSY: &str = "aws-sigv4 lossy UTF-8";
const DUPLICATE: &str = "busbar last duplicate wins, CVE-2022-2385 aws-iam-authenticator";

type Alter = fn(&mut Request);
type Forge = fn(Forgery) -> Forgery;

pub(super) fn plain() -> Request {
    Forgery::honest().seal()
}

pub(super) fn declared() -> Request {
    Forgery::honest().declared().seal()
}

pub(super) fn temporary() -> Request {
    Forgery { id: TEMPORARY, ..Forgery::honest().header("X-Amz-Security-Token", TOKEN) }.seal()
}

pub(super) fn presigned() -> Request {
    Forgery::presigned().seal()
}

pub(super) fn all() -> Vec<Attack> {
    let mut rows = Vec::new();
    for (base, captured, table) in [
        ("", plain(), AUTHORIZATION),
        ("", plain(), SCOPES),
        ("", plain(), DATES),
        ("", plain(), HEADERS),
        ("", plain(), TARGETS),
        ("", plain(), QUERIES),
        ("", plain(), BODIES),
        ("declared: ", declared(), DECLARED),
        ("temporary: ", temporary(), TOKENS),
        ("", plain(), HARMLESS),
        ("presigned: ", presigned(), PRESIGNED),
    ] {
        rows.extend(table.iter().map(|(name, source, fate, alter)| {
            let mut request = captured.clone();
            alter(&mut request);
            Attack { name: format!("{base}{name}"), source, request, fate: *fate }
        }));
    }
    rows.extend(RE_SIGNED.iter().map(|(name, source, fate, forge)| {
        let request = forge(Forgery::honest()).seal();
        Attack { name: format!("re-signed: {name}"), source, request, fate: *fate }
    }));
    rows.extend(RE_PRESIGNED.iter().map(|(name, source, fate, forge)| {
        let request = forge(Forgery::presigned()).seal();
        Attack { name: format!("re-presigned: {name}"), source, request, fate: *fate }
    }));
    rows.extend(each_part());
    rows.extend(injections());
    rows.extend(payload_words());
    rows.extend(signatures_of_something_else());
    rows.extend(at_the_limits());
    rows
}

/// Changes of a captured request in its `Authorization` header.
const AUTHORIZATION: &[(&str, &str, Fate, Alter)] = &[
    ("no Authorization", UNKNOWN_KIND, Coded("MISSING_AUTHORIZATION"), |r| r.remove("authorization")),
    ("an empty Authorization", UNKNOWN_KIND, Refused("malformed"), |r| r.set("authorization", "")),
    ("Proxy-Authorization instead", UNKNOWN_KIND, Coded("MISSING_AUTHORIZATION"), |r| {
        let value = r.text("authorization");
        r.remove("authorization");
        r.add("Proxy-Authorization", &value);
    }),
    ("Authorization twice, the same", DUPLICATE, Refused("malformed"), |r| {
        let same = r.text("authorization");
        r.add("authorization", &same);
    }),
    ("Authorization twice, Bearer behind", DUPLICATE, Refused("malformed"), |r| r.add("Authorization", "Bearer x")),
    ("Authorization twice, Bearer before", DUPLICATE, Refused("malformed"), |r| {
        r.insert(0, "AUTHORIZATION", "Bearer x");
    }),
    ("Authorization twice, an empty one before", DUPLICATE, Refused("malformed"), |r| r.insert(0, "authorization", "")),
    ("two credentials in one Authorization", DUPLICATE, Refused("malformed"), |r| {
        let same = r.text("authorization");
        r.set("authorization", &format!("{same}, {same}"));
    }),
    ("another scheme behind a comma", DUPLICATE, Refused("malformed"), |r| {
        let same = r.text("authorization");
        r.set("authorization", &format!("{same}, Bearer x"));
    }),
    ("Bearer", UNKNOWN_KIND, Refused("unsupported_algorithm"), |r| r.set("authorization", "Bearer x")),
    ("Basic", UNKNOWN_KIND, Refused("unsupported_algorithm"), |r| r.set("authorization", "Basic QUtJRDp4")),
    ("Signature Version 2", UNKNOWN_KIND, Refused("unsupported_algorithm"), |r| {
        r.set("authorization", "AWS AKIDEXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=");
    }),
    ("Signature Version 3", UNKNOWN_KIND, Refused("unsupported_algorithm"), |r| {
        r.set("authorization", "AWS3-HTTPS AWSAccessKeyId=AKIDEXAMPLE,Algorithm=HmacSHA256,Signature=x");
    }),
    ("the algorithm in lower case", ALGORITHM, Refused("unsupported_algorithm"), |r| {
        r.replace("authorization", "AWS4-HMAC-SHA256", "aws4-hmac-sha256");
    }),
    ("the algorithm of chunks", ALGORITHM, Refused("unsupported_algorithm"), |r| {
        r.replace("authorization", "SHA256 ", "SHA256-PAYLOAD ");
    }),
    ("the algorithm of Signature Version 4A", ALGORITHM, Refused("unsupported_algorithm"), |r| {
        r.replace("authorization", "HMAC-SHA256", "ECDSA-P256-SHA256");
    }),
    ("a weaker hash", ALGORITHM, Refused("unsupported_algorithm"), |r| r.replace("authorization", "SHA256", "SHA1")),
    ("an unknown hash", ALGORITHM, Refused("unsupported_algorithm"), |r| r.replace("authorization", "SHA256", "NONE")),
    ("no algorithm", ALGORITHM, Refused("unsupported_algorithm"), |r| {
        r.replace("authorization", "AWS4-HMAC-SHA256 ", "");
    }),
    ("the algorithm alone", ALGORITHM, Refused("malformed"), |r| r.set("authorization", "AWS4-HMAC-SHA256")),
    ("the algorithm twice", ALGORITHM, Refused("malformed"), |r| {
        r.replace("authorization", "AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256 AWS4-HMAC-SHA256 ");
    }),
    ("the algorithm as a parameter", ALGORITHM, Refused("malformed"), |r| {
        r.replace("authorization", "SHA256 ", "SHA256 Algorithm=AWS4-HMAC-SHA256, ");
    }),
    // Parameters.
    ("no Credential", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        let (_, rest) = text.split_once(", ").expect("parameters");
        r.set("authorization", &format!("AWS4-HMAC-SHA256 {rest}"));
    }),
    ("no SignedHeaders", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        let (before, rest) = text.split_once(", ").expect("parameters");
        let (_, signature) = rest.split_once(", ").expect("parameters");
        r.set("authorization", &format!("{before}, {signature}"));
    }),
    ("no Signature", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", text.rsplit_once(", ").expect("parameters").0);
    }),
    ("Credential twice, another first", DUPLICATE, Refused("malformed"), |r| {
        r.replace("authorization", "SHA256 ", &format!("SHA256 Credential=AKIDOTHER/{SCOPE_TEXT}, "));
    }),
    ("Credential twice, another last", DUPLICATE, Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", &format!("{text}, Credential=AKIDOTHER/{SCOPE_TEXT}"));
    }),
    ("SignedHeaders twice, shorter first", DUPLICATE, Refused("malformed"), |r| {
        r.replace("authorization", "SignedHeaders=", "SignedHeaders=host, SignedHeaders=");
    }),
    ("SignedHeaders twice, shorter last", DUPLICATE, Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", &format!("{text}, SignedHeaders=host"));
    }),
    ("Signature twice", DUPLICATE, Refused("malformed"), |r| {
        let text = r.text("authorization");
        let signature = text.rsplit_once(", ").expect("parameters").1.to_owned();
        r.set("authorization", &format!("{text}, {signature}"));
    }),
    ("an unknown parameter", "", Refused("malformed"), |r| r.replace("authorization", "SHA256 ", "SHA256 Extra=1, ")),
    ("parameter names in lower case", "", Refused("malformed"), |r| {
        r.replace("authorization", "Credential=", "credential=");
    }),
    ("white space round an equals sign", "", Refused("malformed"), |r| {
        r.replace("authorization", "Signature=", "Signature = ");
    }),
    ("quoted values", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", &(text.replace("Signature=", "Signature=\"") + "\""));
    }),
    ("a trailing comma", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", &(text + ","));
    }),
    ("a leading comma", "", Refused("malformed"), |r| r.replace("authorization", "SHA256 ", "SHA256 , ")),
    ("two commas", "", Refused("malformed"), |r| r.replace("authorization", ", Signature=", ",, Signature=")),
    ("no commas", "", Refused("malformed"), |r| r.replace("authorization", ", ", " ")),
    ("semicolons for commas", "", Refused("malformed"), |r| r.replace("authorization", ", ", "; ")),
    ("white space in the signature", "", Refused("malformed"), |r| {
        r.replace("authorization", "Signature=", "Signature= ");
    }),
    ("another parameter behind a tab", "", Refused("malformed"), |r| {
        let text = r.text("authorization");
        r.set("authorization", &(text + "\tExtra=1"));
    }),
    ("a byte above ASCII in front", "", Refused("unsupported_algorithm"), |r| {
        r.value("authorization").insert(0, 0xa0);
    }),
    ("a byte above ASCII behind", "", Refused("malformed"), |r| r.value("authorization").push(0xa0)),
    // Credential.
    ("slashes of Credential escaped", "", Refused("malformed"), |r| {
        r.replace("authorization", SCOPE_TEXT, &SCOPE_TEXT.replace('/', "%2F"));
    }),
    ("Credential with four parts", "", Refused("malformed"), |r| r.replace("authorization", "/aws4_request", "")),
    ("Credential with six parts", "", Refused("malformed"), |r| {
        r.replace("authorization", "/aws4_request", "/aws4_request/x");
    }),
    ("Credential with six parts, one in front", "", Refused("malformed"), |r| {
        r.replace("authorization", "Credential=", "Credential=x/");
    }),
    ("an empty key id", "", Refused("malformed"), |r| r.replace("authorization", ID, "")),
    ("a key id with a dash", "", Refused("malformed"), |r| r.replace("authorization", ID, "AKID-EXAMPLE")),
    ("a key id with a NUL escaped", "", Refused("malformed"), |r| r.replace("authorization", ID, "AKIDEXAMPLE%00")),
    ("an unknown key id", "", Refused("mismatch"), |r| r.replace("authorization", ID, "AKIDUNKNOWN")),
    ("another key's id", "", Refused("mismatch"), |r| r.replace("authorization", ID, "AKIDOTHER")),
    ("the key id in lower case", "", Refused("mismatch"), |r| r.replace("authorization", ID, "akidexample")),
    // Signature.
    ("an empty signature", "", Refused("malformed"), |r| set_signature(r, |_| String::new())),
    ("the signature in upper case", "", Refused("malformed"), |r| set_signature(r, |s| s.to_uppercase())),
    ("the signature one digit short", "", Refused("malformed"), |r| set_signature(r, |s| s[1..].to_owned())),
    ("the signature one digit long", "", Refused("malformed"), |r| set_signature(r, |s| s.to_owned() + "0")),
    ("the signature with a letter behind f", "", Refused("malformed"), |r| {
        set_signature(r, |s| format!("g{}", &s[1..]));
    }),
    ("the signature with 0x in front", "", Refused("malformed"), |r| set_signature(r, |s| format!("0x{}", &s[2..]))),
    ("the signature backwards", "", Refused("mismatch"), |r| set_signature(r, |s| s.chars().rev().collect())),
    ("the signature all zeros", "", Refused("mismatch"), |r| set_signature(r, |_| "0".repeat(64))),
    // SignedHeaders.
    ("SignedHeaders empty", "", Refused("malformed"), |r| set_signed(r, "")),
    ("SignedHeaders without order", "", Refused("malformed"), |r| {
        r.replace("authorization", "content-type;host", "host;content-type");
    }),
    ("SignedHeaders names one twice", DUPLICATE, Refused("malformed"), |r| {
        r.replace("authorization", "host;", "host;host;");
    }),
    ("SignedHeaders in upper case", "", Refused("malformed"), |r| r.replace("authorization", ";host;", ";Host;")),
    ("SignedHeaders with an empty name in front", "", Refused("malformed"), |r| {
        r.replace("authorization", "SignedHeaders=", "SignedHeaders=;");
    }),
    ("SignedHeaders with an empty name inside", "", Refused("malformed"), |r| {
        r.replace("authorization", "host;", "host;;");
    }),
    ("SignedHeaders with an empty name behind", "", Refused("malformed"), |r| {
        r.replace("authorization", ", Signature", ";, Signature");
    }),
    ("SignedHeaders with white space", "", Refused("malformed"), |r| r.replace("authorization", "host;", "host ;")),
    ("SignedHeaders joined by bars", "", Refused("unsigned_header"), |r| {
        r.replace("authorization", "date;x-amz-meta-team;", "date|x-amz-meta-team;");
    }),
    ("SignedHeaders with a star", "", Refused("malformed"), |r| set_signed(r, "host;*")),
    ("SignedHeaders with a pseudo header", "", Refused("malformed"), |r| {
        r.replace("authorization", "SignedHeaders=", "SignedHeaders=:authority;");
    }),
    ("host taken from SignedHeaders", HOST, Refused("unsigned_header"), |r| r.replace("authorization", "host;", "")),
    ("a date taken from SignedHeaders", INJECTED, Refused("unsigned_header"), |r| {
        r.replace("authorization", "x-amz-date;", "");
    }),
    ("an x-amz- header taken from SignedHeaders", INJECTED, Refused("unsigned_header"), |r| {
        r.replace("authorization", "x-amz-meta-team;", "");
    }),
    ("another header taken from SignedHeaders", "", Refused("mismatch"), |r| {
        r.replace("authorization", "content-type;", "");
    }),
    ("SignedHeaders reduced to host", INJECTED, Refused("unsigned_header"), |r| set_signed(r, "host")),
    ("an absent name put into SignedHeaders", ABSENT, Refused("missing_signed_header"), |r| {
        r.replace("authorization", "host;", "host;user-agent;");
    }),
    ("a present name put into SignedHeaders", "", Refused("mismatch"), |r| {
        r.add("User-Agent", "x");
        r.replace("authorization", "host;", "host;user-agent;");
    }),
    ("Authorization put into SignedHeaders", "", Refused("mismatch"), |r| {
        r.replace("authorization", "SignedHeaders=", "SignedHeaders=authorization;");
    }),
];

const SCOPE_TEXT: &str = "20261122/us-east-1/execute-api/aws4_request";

/// The scope of a captured request changed.
const SCOPES: &[(&str, &str, Fate, Alter)] = &[
    ("yesterday in the scope", CLOCK, Refused("wrong_scope"), |r| r.replace("authorization", TODAY, "20261121")),
    ("tomorrow in the scope", CLOCK, Refused("wrong_scope"), |r| r.replace("authorization", TODAY, "20261123")),
    ("an empty date in the scope", "", Refused("malformed"), |r| r.replace("authorization", TODAY, "")),
    ("a short date in the scope", "", Refused("malformed"), |r| r.replace("authorization", TODAY, "261122")),
    ("a long date in the scope", "", Refused("malformed"), |r| r.replace("authorization", TODAY, NOW_BASIC)),
    ("letters in the scope's date", "", Refused("malformed"), |r| r.replace("authorization", TODAY, "2026Nov2")),
    ("a sign in the scope's date", "", Refused("malformed"), |r| r.replace("authorization", TODAY, "+2026112")),
    ("another region", SCOPE, Refused("wrong_scope"), |r| r.replace("authorization", "us-east-1", "us-east-2")),
    ("an empty region", SCOPE, Refused("wrong_scope"), |r| r.replace("authorization", "us-east-1", "")),
    ("the region in upper case", SCOPE, Refused("wrong_scope"), |r| {
        r.replace("authorization", "us-east-1", "US-EAST-1");
    }),
    ("the region with white space", SCOPE, Refused("wrong_scope"), |r| {
        r.replace("authorization", "us-east-1", " us-east-1");
    }),
    ("the start of a region", SCOPE, Refused("wrong_scope"), |r| r.replace("authorization", "us-east-1", "us-east-")),
    ("more than a region", SCOPE, Refused("wrong_scope"), |r| r.replace("authorization", "us-east-1", "us-east-11")),
    ("a star for the region", SCOPE, Refused("wrong_scope"), |r| r.replace("authorization", "us-east-1", "*")),
    ("another region that is accepted", SCOPE, Refused("mismatch"), |r| {
        r.replace("authorization", "us-east-1", "eu-west-1");
    }),
    ("another service", PURPOSE, Refused("wrong_scope"), |r| r.replace("authorization", "execute-api", "s3")),
    ("an empty service", PURPOSE, Refused("wrong_scope"), |r| r.replace("authorization", "execute-api", "")),
    ("the service in upper case", PURPOSE, Refused("wrong_scope"), |r| {
        r.replace("authorization", "execute-api", "Execute-API");
    }),
    ("region and service swapped", SCOPE, Refused("wrong_scope"), |r| {
        r.replace("authorization", "us-east-1/execute-api", "execute-api/us-east-1");
    }),
    ("another terminator", "", Refused("wrong_scope"), |r| r.replace("authorization", "aws4_request", "aws5_request")),
    ("the terminator in another case", "", Refused("wrong_scope"), |r| {
        r.replace("authorization", "aws4_request", "aws4_Request");
    }),
    ("an empty terminator", "", Refused("wrong_scope"), |r| r.replace("authorization", "aws4_request", "")),
    ("more than a terminator", "", Refused("wrong_scope"), |r| {
        r.replace("authorization", "aws4_request", "aws4_request2");
    }),
];

/// The date of a captured request changed.
const DATES: &[(&str, &str, Fate, Alter)] = &[
    ("a date one second later", "", Refused("mismatch"), |r| r.set("x-amz-date", "20261122T095652Z")),
    ("a date at the edge of the window", "", Refused("mismatch"), |r| r.set("x-amz-date", "20261122T095151Z")),
    ("a date behind the window", CLOCK, Refused("expired"), |r| r.set("x-amz-date", "20261122T095150Z")),
    ("a date at the other edge of the window", "", Refused("mismatch"), |r| r.set("x-amz-date", "20261122T100151Z")),
    ("a date before the window", CLOCK, Refused("not_yet_valid"), |r| r.set("x-amz-date", "20261122T100152Z")),
    ("a date of long ago", CLOCK, Refused("expired"), |r| r.set("x-amz-date", "20150830T123600Z")),
    ("the last second there is", CLOCK, Refused("not_yet_valid"), |r| r.set("x-amz-date", "99991231T235959Z")),
    ("the first second there is", CLOCK, Refused("expired"), |r| r.set("x-amz-date", "19700101T000000Z")),
    ("no date", CLOCK, Refused("missing_signed_header"), |r| r.remove("x-amz-date")),
    ("no date at all", CLOCK, Refused("malformed"), |r| {
        r.remove("x-amz-date");
        r.replace("authorization", "x-amz-date;", "");
    }),
    ("the date moved to Date", CLOCK, Refused("mismatch"), |r| {
        r.remove("x-amz-date");
        r.replace("authorization", "content-type;host;x-amz-date;", "content-type;date;host;");
        r.add("Date", NOW_HTTP);
    }),
    ("a date twice, the same", DUPLICATE, Refused("malformed"), |r| r.add("x-amz-date", NOW_BASIC)),
    ("a date twice, another first", DUPLICATE, Refused("malformed"), |r| r.insert(0, "X-Amz-Date", "20261122T095650Z")),
    ("two dates in one", DUPLICATE, Refused("malformed"), |r| {
        r.set("x-amz-date", "20261122T095651Z,20261122T095651Z");
    }),
    ("an empty date", CLOCK, Refused("malformed"), |r| r.set("x-amz-date", "")),
    ("a date in the extended form", "", Refused("malformed"), |r| r.set("x-amz-date", "2026-11-22T09:56:51Z")),
    ("a date in the form of HTTP", "", Refused("malformed"), |r| r.set("x-amz-date", NOW_HTTP)),
    ("a date in Unix time", "", Refused("malformed"), |r| r.set("x-amz-date", "1795341411")),
    ("a date without a zone", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T095651")),
    ("a date in another zone", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T105651+0100")),
    ("a date in lower case", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122t095651z")),
    ("a date with fractions", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T095651.0Z")),
    ("a date with white space inside", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122 095651Z")),
    ("a date with a sign", "", Refused("malformed"), |r| r.set("x-amz-date", "2026112+T095651Z")),
    ("a day that is not", "", Refused("malformed"), |r| r.set("x-amz-date", "20261131T095651Z")),
    ("a leap day that is not", "", Refused("malformed"), |r| r.set("x-amz-date", "20260229T095651Z")),
    ("a month that is not", "", Refused("malformed"), |r| r.set("x-amz-date", "20261322T095651Z")),
    ("an hour that is not", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T245651Z")),
    ("a minute that is not", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T096051Z")),
    ("a leap second", "", Refused("malformed"), |r| r.set("x-amz-date", "20261122T095660Z")),
    ("a year before the epoch", "", Refused("malformed"), |r| r.set("x-amz-date", "19691231T235959Z")),
    ("digits that are not ASCII", "", Refused("malformed"), |r| r.set("x-amz-date", "２026112T095651Z")),
    ("a NUL behind the date", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-date", "20261122T095651Z\0")),
];

/// Headers of a captured request changed, added, removed.
const HEADERS: &[(&str, &str, Fate, Alter)] = &[
    ("another host", HOST, Refused("mismatch"), |r| r.set("host", "other.example")),
    ("the host in another case", HOST, Refused("mismatch"), |r| r.set("host", "Orbit.example")),
    ("the host with a dot behind", HOST, Refused("mismatch"), |r| r.set("host", "orbit.example.")),
    ("the host with a port", HOST, Refused("mismatch"), |r| r.set("host", "orbit.example:8080")),
    ("the host with a dot in front", HOST, Refused("mismatch"), |r| r.set("host", "x.orbit.example")),
    ("a default port behind a signed header too", HOST, Refused("mismatch"), |r| {
        r.set("host", "orbit.example:443");
        r.set("x-amz-meta-team", "a:443");
    }),
    ("a default port twice", HOST, Coded("INVALID_REQUEST"), |r| r.set("host", "orbit.example:443:443")),
    ("another port than the default", HOST, Refused("mismatch"), |r| r.set("host", "orbit.example:8443")),
    ("an empty host", HOST, Coded("INVALID_REQUEST"), |r| r.set("host", "")),
    ("no host", HOST, Coded("INVALID_REQUEST"), |r| r.remove("host")),
    ("a second host behind", HOST, Coded("INVALID_REQUEST"), |r| r.add("Host", "other.example")),
    ("a second host before", HOST, Coded("INVALID_REQUEST"), |r| r.insert(0, "Host", "other.example")),
    ("the same host twice", HOST, Coded("INVALID_REQUEST"), |r| r.add("host", "orbit.example")),
    ("a second host behind a comma", HOST, Coded("INVALID_REQUEST"), |r| r.set("host", "orbit.example, other")),
    ("the host with a name before it", HOST, Coded("INVALID_REQUEST"), |r| r.set("host", "a@orbit.example")),
    ("the host with a path behind", HOST, Coded("INVALID_REQUEST"), |r| r.set("host", "orbit.example/x")),
    ("the host moved to X-Forwarded-Host", HOST, Refused("mismatch"), |r| {
        r.set("host", "other.example");
        r.add("X-Forwarded-Host", "orbit.example");
    }),
    ("the host in a pseudo header", HOST, Coded("INVALID_REQUEST"), |r| r.add(":authority", "orbit.example")),
    // Signed headers.
    ("a signed header altered", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "b")),
    ("a signed header in another case", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "A")),
    ("a signed header emptied", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "")),
    ("a signed header removed", ABSENT, Refused("missing_signed_header"), |r| r.remove("x-correlation-id")),
    ("a signed x-amz- header removed", ABSENT, Refused("missing_signed_header"), |r| r.remove("x-amz-meta-team")),
    ("a signed header twice", DUPLICATE, Refused("mismatch"), |r| r.add("x-amz-meta-team", "a")),
    ("a signed header twice, another first", DUPLICATE, Refused("mismatch"), |r| r.insert(0, "x-amz-meta-team", "b")),
    ("a signed header twice, an empty one behind", DUPLICATE, Refused("mismatch"), |r| r.add("x-amz-meta-team", "")),
    ("a signed header with more behind a comma", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "a,b")),
    ("a signed header in quotes", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "\"a\"")),
    ("the values of two signed headers swapped", "", Refused("mismatch"), |r| {
        r.set("x-amz-meta-team", "abc123-def456");
        r.set("x-correlation-id", "a");
    }),
    ("a signed header under another name", INJECTED, Refused("unsigned_header"), |r| {
        r.remove("x-amz-meta-team");
        r.add("X-Amz-Meta-Teams", "a");
    }),
    ("a signed header under a name with an underscore", LOOK_ALIKE, Refused("missing_signed_header"), |r| {
        r.remove("x-amz-meta-team");
        r.add("X_Amz_Meta_Team", "a");
    }),
    ("Content-Type altered", "", Refused("mismatch"), |r| r.set("content-type", "application/json; charset=utf-7")),
    ("Content-Type of something else", "", Door("UNSUPPORTED_MEDIA_TYPE", "mismatch"), |r| {
        r.set("content-type", "text/plain");
    }),
    ("Content-Type twice", DUPLICATE, Door("UNSUPPORTED_MEDIA_TYPE", "mismatch"), |r| {
        r.add("content-type", "application/json");
    }),
    ("a byte above ASCII in a signed header", LOSSY, Refused("mismatch"), |r| r.value("x-amz-meta-team").push(0xff)),
    // A line that is two lines to somebody.
    ("a folded line", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\r\n b")),
    ("a folded line that is blank", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\r\n ")),
    ("a bare line feed", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\nx-amz-acl: public-read")),
    ("a bare carriage return", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\rx-amz-acl: x")),
    ("two carriage returns", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\r")),
    ("a NUL in a value", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\0")),
    ("a NUL in a name", "", Coded("INVALID_REQUEST"), |r| r.add("x-amz-\0acl", "x")),
    ("a space in a name", "", Coded("INVALID_REQUEST"), |r| r.add("x-amz acl", "x")),
    ("a space behind a name", "", Coded("INVALID_REQUEST"), |r| r.add("x-amz-acl ", "x")),
    ("a tab behind a name", "", Coded("INVALID_REQUEST"), |r| r.add("Authorization\t", "x")),
    ("a space before a name", "", Coded("INVALID_REQUEST"), |r| r.add(" x-amz-acl", "x")),
    ("an empty name", "", Coded("INVALID_REQUEST"), |r| r.add("", "x")),
    ("a name above ASCII", "", Coded("INVALID_REQUEST"), |r| r.add("x-amz-ａcl", "x")),
    ("DEL in a value", "", Coded("INVALID_REQUEST"), |r| r.set("x-amz-meta-team", "a\x7f")),
    // Framing.
    ("a length beside chunks", "", Coded("INVALID_REQUEST"), |r| {
        r.add("Content-Length", "81");
        r.add("Transfer-Encoding", "chunked");
    }),
    ("two lengths", "", Coded("INVALID_REQUEST"), |r| {
        r.add("Content-Length", "81");
        r.add("Content-Length", "0");
    }),
    ("a length with a sign", "", Coded("INVALID_REQUEST"), |r| r.add("Content-Length", "+81")),
    ("another transfer coding", "", Coded("INVALID_REQUEST"), |r| r.add("Transfer-Encoding", "gzip, chunked")),
];

/// Method and path of a captured request changed.
const TARGETS: &[(&str, &str, Fate, Alter)] = &[
    ("another method", "", Door("METHOD_NOT_ALLOWED", "mismatch"), |r| r.method = "PUT".into()),
    ("the method in lower case", "", Door("METHOD_NOT_ALLOWED", "mismatch"), |r| r.method = "post".into()),
    ("no method", "", Coded("INVALID_REQUEST"), |r| r.method.clear()),
    ("another path", "CVE-2020-16251 Vault", Door("NOT_FOUND", "mismatch"), |r| path(r, "/other")),
    ("the path with a slash behind", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/dispatch/")),
    ("the path in another case", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/Dispatch")),
    ("a letter of the path escaped", ENCODING, Door("NOT_FOUND", "mismatch"), |r| path(r, "/%64ispatch")),
    ("the slash of the path escaped", ENCODING, Door("NOT_FOUND", "mismatch"), |r| path(r, "/%2Fdispatch")),
    ("escaped dots", ENCODING, Door("NOT_FOUND", "mismatch"), |r| path(r, "/x/%2e%2e/dispatch")),
    ("a backslash", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/x\\..\\dispatch")),
    ("a path parameter", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/dispatch;x=1")),
    ("an escaped question mark", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/dispatch%3Fx=1")),
    ("an escaped NUL", "", Door("NOT_FOUND", "mismatch"), |r| path(r, "/dispatch%00")),
    // The specification removes these before signing, so only the route sees them.
    ("two slashes", "", Door("NOT_FOUND", "accepted"), |r| path(r, "//dispatch")),
    ("a dot segment", "", Door("NOT_FOUND", "accepted"), |r| path(r, "/./dispatch")),
    ("two dot segments", "", Door("NOT_FOUND", "accepted"), |r| path(r, "/x/../dispatch")),
    // Other forms of the target.
    ("absolute form of another host", FOREIGN, Coded("INVALID_REQUEST"), |r| {
        r.target = format!("http://other.example{}", r.target);
    }),
    ("absolute form with another port", FOREIGN, Coded("INVALID_REQUEST"), |r| {
        r.target = format!("http://orbit.example:8080{}", r.target);
    }),
    ("absolute form with a name before the host", FOREIGN, Coded("INVALID_REQUEST"), |r| {
        r.target = format!("http://a@orbit.example{}", r.target);
    }),
    ("absolute form of another scheme", FOREIGN, Coded("INVALID_REQUEST"), |r| {
        r.target = format!("ftp://orbit.example{}", r.target);
    }),
    ("absolute form of another host that Host names too", FOREIGN, Refused("mismatch"), |r| {
        r.target = format!("http://other.example{}", r.target);
        r.set("host", "other.example");
    }),
    ("no slash in front", "", Coded("INVALID_REQUEST"), |r| r.target = "dispatch".into()),
    ("asterisk form", "", Coded("INVALID_REQUEST"), |r| r.target = "*".into()),
    ("a fragment", "", Coded("INVALID_REQUEST"), |r| r.target += "#x"),
    ("a space in the target", "", Coded("INVALID_REQUEST"), |r| path(r, "/dispatch x")),
    ("a byte above ASCII in the target", "", Coded("INVALID_REQUEST"), |r| path(r, "/dispatch\u{e9}")),
    ("a line feed in the target", "", Coded("INVALID_REQUEST"), |r| path(r, "/dispatch\nx-amz-acl:")),
];

/// The query of a captured request changed: `stage=prod&a=%2B&a=1&flag=`.
const QUERIES: &[(&str, &str, Fate, Alter)] = &[
    ("the query removed", "", Refused("mismatch"), |r| r.target = "/dispatch".into()),
    ("a pair added", "", Refused("mismatch"), |r| r.target += "&b=1"),
    ("a pair added in front", "", Refused("mismatch"), |r| query(r, "stage=", "b=1&stage=")),
    ("a pair twice", DUPLICATE, Refused("mismatch"), |r| r.target += "&stage=prod"),
    ("a name twice", DUPLICATE, Refused("mismatch"), |r| r.target += "&stage=test"),
    ("a pair removed", "", Refused("mismatch"), |r| query(r, "stage=prod&", "")),
    ("a name altered", "", Refused("mismatch"), |r| query(r, "stage", "staga")),
    ("a name in another case", DUPLICATE, Refused("mismatch"), |r| query(r, "stage", "Stage")),
    ("a value altered", "", Refused("mismatch"), |r| query(r, "prod", "prof")),
    ("a value emptied", "", Refused("mismatch"), |r| query(r, "prod", "")),
    ("values swapped", "", Refused("mismatch"), |r| query(r, "stage=prod&a=%2B", "stage=%2B&a=prod")),
    ("a value moved into its name", "", Refused("mismatch"), |r| query(r, "stage=prod", "stagepro=d")),
    ("a value moved into the next name", "", Refused("mismatch"), |r| query(r, "stage=prod&a", "stage=pro&da")),
    ("a separator escaped", "", Refused("mismatch"), |r| query(r, "prod&a", "prod%26a")),
    ("an equals sign escaped", "", Refused("mismatch"), |r| query(r, "stage=prod", "stage%3Dprod")),
    ("a semicolon for a separator", "", Refused("mismatch"), |r| query(r, "prod&a", "prod;a")),
    ("an escaped plus sign bare", PLUS, Refused("mismatch"), |r| query(r, "%2B", "+")),
    ("an escaped plus sign as a space", PLUS, Refused("mismatch"), |r| query(r, "%2B", "%20")),
    ("an escaped plus sign escaped again", ENCODING, Refused("mismatch"), |r| query(r, "%2B", "%252B")),
    ("a letter escaped twice", ENCODING, Refused("mismatch"), |r| query(r, "prod", "%2570rod")),
    ("a NUL behind a value", "", Refused("mismatch"), |r| query(r, "prod", "prod%00")),
    ("an escape cut off", "", Coded("INVALID_REQUEST"), |r| r.target += "%2"),
    ("an escape of nothing", "", Coded("INVALID_REQUEST"), |r| query(r, "%2B", "%zz")),
    ("a second question mark", "", Refused("mismatch"), |r| query(r, "stage", "?stage")),
    // Query authentication, whole or in part, beside the header or alone.
    ("X-Amz-Signature beside the header", QUERY_ONLY, Refused("malformed"), |r| r.target += "&X-Amz-Signature=00"),
    ("X-Amz-Algorithm beside the header", QUERY_ONLY, Refused("malformed"), |r| {
        r.target += "&X-Amz-Algorithm=AWS4-HMAC-SHA256";
    }),
    ("X-Amz-Credential beside the header, misspelt", QUERY_ONLY, Refused("malformed"), |r| {
        r.target += "&x%2Damz-credential=AKIDEXAMPLE";
    }),
    ("X-Amz-Credential alone", QUERY_ONLY, Refused("malformed"), |r| {
        r.remove("authorization");
        r.target += "&X-Amz-Credential=AKIDEXAMPLE%2F20261122%2Fus-east-1%2Fexecute-api%2Faws4_request";
    }),
    ("X-Amz-Security-Token in the query", QUERY_ONLY, Refused("malformed"), |r| r.target += "&X-Amz-Security-Token=x"),
    ("query authentication of Signature Version 2", UNKNOWN_KIND, Coded("MISSING_AUTHORIZATION"), |r| {
        r.remove("authorization");
        r.target += "&AWSAccessKeyId=AKIDEXAMPLE&Expires=1795341500&Signature=frJIUN8DYpKDtOLCwo";
    }),
];

/// The body of a captured request changed.
const BODIES: &[(&str, &str, Fate, Alter)] = &[
    ("the body's first byte altered", "", Refused("mismatch"), |r| r.body[0] ^= 1),
    ("the body's middle byte altered", "", Refused("mismatch"), |r| {
        let at = r.body.len() / 2;
        r.body[at] ^= 1;
    }),
    ("the body's last byte altered", "", Refused("mismatch"), |r| *r.body.last_mut().expect("a body") ^= 1),
    ("a space behind the body", "", Refused("mismatch"), |r| r.body.push(b' ')),
    ("a line end behind the body", "", Refused("mismatch"), |r| r.body.extend(b"\r\n")),
    ("a NUL behind the body", "", Refused("mismatch"), |r| r.body.push(0)),
    ("a space before the body", "", Refused("mismatch"), |r| r.body.insert(0, b' ')),
    ("the body cut by one byte", "", Refused("mismatch"), |r| shorten(&mut r.body)),
    ("the body emptied", EMPTY_HASH, Refused("mismatch"), |r| r.body.clear()),
    ("the body twice", "", Refused("mismatch"), |r| r.body.extend_from_within(..)),
    ("another body", "", Refused("mismatch"), |r| r.body = br#"{"intent":"delete_everything"}"#.to_vec()),
    ("the same JSON in other bytes", "", Refused("mismatch"), |r| r.body.insert(1, b' ')),
];

/// A captured request that declares its body's hash, changed.
const DECLARED: &[(&str, &str, Fate, Alter)] = &[
    ("the body's first byte altered", "", Refused("payload_mismatch"), |r| r.body[0] ^= 1),
    ("the body's last byte altered", "", Refused("payload_mismatch"), |r| *r.body.last_mut().expect("a body") ^= 1),
    ("a space behind the body", "", Refused("payload_mismatch"), |r| r.body.push(b' ')),
    ("the body cut by one byte", "", Refused("payload_mismatch"), |r| shorten(&mut r.body)),
    ("the body emptied", EMPTY_HASH, Refused("payload_mismatch"), |r| r.body.clear()),
    ("another body and its hash", "", Refused("mismatch"), |r| {
        r.body = br#"{"intent":"delete_everything"}"#.to_vec();
        let hash = hex(&Sha256::digest(&r.body));
        r.set("x-amz-content-sha256", &hash);
    }),
    ("the hash of nothing", EMPTY_HASH, Refused("mismatch"), |r| {
        r.set("x-amz-content-sha256", &hex(&Sha256::digest(b"")));
    }),
    ("an empty hash", EMPTY_HASH, Refused("malformed"), |r| r.set("x-amz-content-sha256", "")),
    ("no hash", ABSENT, Refused("missing_signed_header"), |r| r.remove("x-amz-content-sha256")),
    ("the hash in upper case", "", Refused("malformed"), |r| {
        let upper = r.text("x-amz-content-sha256").to_uppercase();
        r.set("x-amz-content-sha256", &upper);
    }),
    ("the hash in base 64", "", Refused("malformed"), |r| {
        r.set("x-amz-content-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }),
    ("the hash one digit short", "", Refused("malformed"), |r| shorten(r.value("x-amz-content-sha256"))),
    ("the hash one digit long", "", Refused("malformed"), |r| r.value("x-amz-content-sha256").push(b'0')),
    ("the hash twice, the same", DUPLICATE, Refused("malformed"), |r| {
        let same = r.text("x-amz-content-sha256");
        r.add("x-amz-content-sha256", &same);
    }),
    ("the hash twice, another first", DUPLICATE, Refused("malformed"), |r| {
        r.insert(0, "X-Amz-Content-Sha256", &hex(&Sha256::digest(b"")));
    }),
    ("two hashes in one", DUPLICATE, Refused("malformed"), |r| {
        let same = r.text("x-amz-content-sha256");
        r.set("x-amz-content-sha256", &format!("{same},{same}"));
    }),
    ("the method altered", "", Door("METHOD_NOT_ALLOWED", "mismatch"), |r| r.method = "PUT".into()),
    ("the query altered", "", Refused("mismatch"), |r| query(r, "prod", "prof")),
    ("a header altered", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "b")),
    ("an x-amz- header added", INJECTED, Refused("unsigned_header"), |r| r.add("x-amz-acl", "public-read")),
    ("the signature altered", "", Refused("mismatch"), |r| set_signature(r, |s| s.chars().rev().collect())),
];

/// A captured request of a temporary key, changed.
const TOKENS: &[(&str, &str, Fate, Alter)] = &[
    ("no token", ABSENT, Refused("missing_signed_header"), |r| r.remove("x-amz-security-token")),
    ("the token altered", "", Refused("mismatch"), |r| r.replace("x-amz-security-token", "AQo", "AQp")),
    ("the token in upper case", "", Refused("mismatch"), |r| {
        let upper = r.text("x-amz-security-token").to_uppercase();
        r.set("x-amz-security-token", &upper);
    }),
    ("the token cut by one byte", "", Refused("mismatch"), |r| shorten(r.value("x-amz-security-token"))),
    ("more behind the token", "", Refused("mismatch"), |r| r.value("x-amz-security-token").push(b'=')),
    ("an empty token", "", Refused("mismatch"), |r| r.set("x-amz-security-token", "")),
    ("the token twice", DUPLICATE, Refused("malformed"), |r| r.add("x-amz-security-token", TOKEN)),
    ("another token first", DUPLICATE, Refused("malformed"), |r| r.insert(0, "X-Amz-Security-Token", "x")),
    ("the token in quotes", "", Refused("mismatch"), |r| {
        r.set("x-amz-security-token", &format!("\"{TOKEN}\""));
    }),
    ("the body altered", "", Refused("mismatch"), |r| r.body[0] ^= 1),
    ("the id of a lasting key", "", Refused("token_mismatch"), |r| r.replace("authorization", TEMPORARY, ID)),
];

/// Changes of a captured request that no signature binds; Axon must see the same request all the same.
const HARMLESS: &[(&str, &str, Fate, Alter)] = &[
    ("unchanged", "", Harmless, |_| {}),
    ("pairs of the query in another order", "", Harmless, |r| r.target = "/dispatch?flag=&a=1&stage=prod&a=%2B".into()),
    ("escapes of the query spelt otherwise", "", Harmless, |r| query(r, "prod&a=%2B", "%70rod&a=%2b")),
    ("an empty pair", "", Harmless, |r| query(r, "prod&a", "prod&&a")),
    ("an equals sign left out", "", Harmless, |r| query(r, "flag=", "flag")),
    ("parameters in another order", "", Harmless, |r| {
        let text = r.text("authorization");
        let parts: Vec<_> = text.trim_start_matches("AWS4-HMAC-SHA256 ").split(", ").collect();
        r.set("authorization", &format!("AWS4-HMAC-SHA256 {},{}\t, {}", parts[2], parts[0], parts[1]));
    }),
    ("names of headers in another case", "", Harmless, |r| {
        for (name, _) in &mut r.fields {
            *name = name.to_uppercase();
        }
    }),
    ("headers in another order", "", Harmless, |r| r.fields.reverse()),
    ("white space round a value", "", Harmless, |r| r.set("x-amz-meta-team", "  \t a \t")),
    ("the default port, which balancers add", HOST, Harmless, |r| r.set("host", "orbit.example:443")),
    ("absolute form of the same host", FOREIGN, Harmless, |r| r.target = format!("http://orbit.example{}", r.target)),
    ("absolute form over TLS", FOREIGN, Harmless, |r| r.target = format!("HTTPS://Orbit.Example{}", r.target)),
    ("another date beside X-Amz-Date", CLOCK, Harmless, |r| r.add("Date", "Sun, 06 Nov 1994 08:49:37 GMT")),
    ("what CloudFront and balancers add", FORWARDED, Harmless, |r| {
        for (name, value) in [
            ("X-Amz-Cf-Id", "edge"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "other.example"),
            ("X-Amzn-Tls-Version", "TLSv1.3"),
        ] {
            r.add(name, value);
        }
    }),
    ("headers that rewrite requests elsewhere", FORWARDED, Harmless, |r| {
        for (name, value) in [
            ("X-HTTP-Method-Override", "DELETE"),
            ("X-Original-URL", "/metrics"),
            ("X-Rewrite-URL", "/metrics"),
            ("X-Forwarded-Prefix", "/other"),
            ("Cookie", "admin=1"),
            ("Proxy-Authorization", "Basic eDp4"),
        ] {
            r.add(name, value);
        }
    }),
    ("x-amz without a dash", LOOK_ALIKE, Harmless, |r| r.add("x-amz", "x")),
    ("x-amz with underscores", LOOK_ALIKE, Harmless, |r| r.add("x_amz_acl", "public-read")),
    ("x-amz with one underscore", LOOK_ALIKE, Harmless, |r| r.add("x-amz_acl", "public-read")),
    ("xx-amz", LOOK_ALIKE, Harmless, |r| r.add("xx-amz-acl", "public-read")),
    ("Connection names what is signed", "", Harmless, |r| {
        r.add("Connection", "authorization, x-amz-date, host, x-amz-meta-team");
    }),
    ("an encoding that nobody signed", CHUNKS, Harmless, |r| r.add("Content-Encoding", "aws-chunked")),
    ("an unsigned hash of the body", "", Harmless, |r| {
        let hash = hex(&Sha256::digest(&r.body));
        r.add("X-Amz-Content-Sha256", &hash);
    }),
];

/// Requests signed by whoever has the secret, for something else or in another way.
const RE_SIGNED: &[(&str, &str, Fate, Forge)] = &[
    ("honestly", "", Harmless, |f| f),
    ("with the hash declared", "", Harmless, Forgery::declared),
    ("for another accepted region", "", Harmless, |f| scoped(f, [TODAY, "eu-west-1", "execute-api", "aws4_request"])),
    ("with the hash declared and not signed", "", Harmless, |f| {
        let mut f = f;
        let hash = f.body_hash();
        f.request.add("X-Amz-Content-Sha256", &hash);
        f
    }),
    ("without Content-Type", "", Harmless, |f| f.not("content-type")),
    ("for yesterday", CLOCK, Refused("wrong_scope"), |f| {
        scoped(f, ["20261121", "us-east-1", "execute-api", "aws4_request"])
    }),
    ("for another region", SCOPE, Refused("wrong_scope"), |f| {
        scoped(f, [TODAY, "us-west-2", "execute-api", "aws4_request"])
    }),
    ("for no region", SCOPE, Refused("wrong_scope"), |f| scoped(f, [TODAY, "", "execute-api", "aws4_request"])),
    ("for another service", PURPOSE, Refused("wrong_scope"), |f| {
        scoped(f, [TODAY, "us-east-1", "sts", "aws4_request"])
    }),
    ("with another terminator", "", Refused("wrong_scope"), |f| {
        scoped(f, [TODAY, "us-east-1", "execute-api", "aws5_request"])
    }),
    ("with the key of yesterday", CLOCK, Refused("mismatch"), |f| Forgery {
        derived: ["20261121", "us-east-1", "execute-api", "aws4_request"],
        ..f
    }),
    ("with the key of another region", SCOPE, Refused("mismatch"), |f| Forgery {
        derived: [TODAY, "eu-west-1", "execute-api", "aws4_request"],
        ..f
    }),
    ("with the key of another service", PURPOSE, Refused("mismatch"), |f| Forgery {
        derived: [TODAY, "us-east-1", "s3", "aws4_request"],
        ..f
    }),
    ("with a key without its terminator", "", Refused("mismatch"), |f| Forgery {
        derived: [TODAY, "us-east-1", "execute-api", ""],
        ..f
    }),
    ("without AWS4 before the secret", "", Refused("mismatch"), |f| Forgery { prefix: "", ..f }),
    ("with another secret", "", Refused("mismatch"), |f| Forgery { secret: "another secret", ..f }),
    ("with another secret and the hash declared", "", Refused("mismatch"), |f| {
        Forgery { secret: "another secret", ..f }.declared()
    }),
    ("with no secret", "", Refused("mismatch"), |f| Forgery { secret: "", ..f }),
    ("with the key id for a secret", KEYLESS, Refused("mismatch"), |f| Forgery { secret: ID, ..f }),
    ("with the secret in lower case", "", Refused("mismatch"), |f| Forgery {
        secret: "wjalrxutnfemi/k7mdeng+bpxrficyexamplekey",
        ..f
    }),
    ("by an unknown key", "", Refused("mismatch"), |f| Forgery { id: "AKIDUNKNOWN", ..f }),
    ("by a disabled key", "", Refused("mismatch"), |f| Forgery { id: "AKIDDISABLED", ..f }),
    ("by a key that is not valid yet", "", Refused("mismatch"), |f| Forgery { id: "AKIDEARLY", ..f }),
    ("by a key that is no longer valid", "", Refused("mismatch"), |f| Forgery { id: "AKIDLAPSED", ..f }),
    ("in the name of another algorithm", ALGORITHM, Refused("mismatch"), |f| Forgery {
        algorithm: "AWS4-HMAC-SHA256-PAYLOAD",
        ..f
    }),
    ("at another second", CLOCK, Refused("mismatch"), |f| Forgery { stamp: "20261122T095652Z".into(), ..f }),
    ("long ago", CLOCK, Refused("expired"), |f| dated(f, "20150830T123600Z", "20150830")),
    ("at the start of the window", CLOCK, Harmless, |f| dated(f, "20261122T095151Z", TODAY)),
    ("before the window", CLOCK, Refused("expired"), |f| dated(f, "20261122T095150Z", TODAY)),
    ("at the end of the window", CLOCK, Harmless, |f| dated(f, "20261122T100151Z", TODAY)),
    ("behind the window", CLOCK, Refused("not_yet_valid"), |f| dated(f, "20261122T100152Z", TODAY)),
    // What must be signed and is not.
    ("without host", HOST, Refused("unsigned_header"), |f| f.not("host")),
    ("without its date", INJECTED, Refused("unsigned_header"), |f| f.not("x-amz-date")),
    ("without an x-amz- header", INJECTED, Refused("unsigned_header"), |f| f.not("x-amz-meta-team")),
    ("with a header that is absent", ABSENT, Refused("missing_signed_header"), |f| f.also("x-absent")),
    ("with an x-amz- header that is absent", ABSENT, Refused("missing_signed_header"), |f| f.also("x-amz-absent")),
    ("with names in another order", "", Refused("malformed"), |f| {
        let names = "host;content-type;x-amz-date;x-amz-meta-team;x-correlation-id";
        Forgery { signed: names.into(), ..f }
    }),
    ("with a name twice", DUPLICATE, Refused("malformed"), |f| {
        let names = "content-type;host;host;x-amz-date;x-amz-meta-team;x-correlation-id";
        Forgery { signed: names.into(), ..f }
    }),
    ("with names in upper case", "", Refused("malformed"), |f| {
        let names = "Content-Type;Host;X-Amz-Date;X-Amz-Meta-Team;X-Correlation-ID";
        Forgery { signed: names.into(), ..f }
    }),
    ("with fewer names than are told", "", Refused("mismatch"), |f| {
        let named = Some(f.signed.clone());
        Forgery { named, ..f.not("content-type") }
    }),
    ("with more names than are told", "", Refused("mismatch"), |f| {
        let named = Some(f.signed.replace("content-type;", ""));
        Forgery { named, ..f }
    }),
    // Canonical requests of other rules.
    ("for another method", "", Refused("mismatch"), |f| Forgery { method: "GET".into(), ..f }),
    ("for another path", "", Refused("mismatch"), |f| Forgery { path: "/other".into(), ..f }),
    ("for an empty path", "", Refused("mismatch"), |f| Forgery { path: String::new(), ..f }),
    ("with the path escaped", ENCODING, Refused("mismatch"), |f| Forgery { path: "%2Fdispatch".into(), ..f }),
    ("for another query", "", Refused("mismatch"), |f| Forgery { query: "a=1".into(), ..f }),
    ("with the query's values sorted", "", Refused("mismatch"), |f| Forgery {
        query: "a=%2B&a=1&stage=prod&flag=".into(),
        ..f
    }),
    ("with a query escaped twice", ENCODING, Refused("mismatch"), |f| Forgery {
        query: "a=%252B&a=1&flag=&stage=prod".into(),
        ..f
    }),
    ("with values joined by more than a comma", "", Refused("mismatch"), |f| {
        Forgery { comma: ", ", ..f }.header("X-List", "1").twice("X-List", "2")
    }),
    ("with values joined by a comma", "", Harmless, |f| f.header("X-List", "1").twice("X-List", "2")),
    ("with a line end behind", "", Refused("mismatch"), |f| {
        let payload = Some(f.body_hash() + "\n");
        Forgery { payload, ..f }
    }),
    // The body.
    ("for an empty body", EMPTY_HASH, Refused("mismatch"), |f| {
        let payload = Some(hex(&Sha256::digest(b"")));
        Forgery { payload, ..f }
    }),
    ("without a payload", EMPTY_HASH, Refused("mismatch"), |f| Forgery { payload: Some(String::new()), ..f }),
    ("for an unsigned body that is not declared", EMPTY_HASH, Refused("mismatch"), |f| Forgery {
        payload: Some("UNSIGNED-PAYLOAD".into()),
        ..f
    }),
    ("with the hash of an empty body declared", EMPTY_HASH, Refused("payload_mismatch"), |f| {
        let hash = hex(&Sha256::digest(b""));
        Forgery { payload: Some(hash.clone()), ..f.header("X-Amz-Content-Sha256", &hash) }
    }),
    ("with the hash of another body declared and unsigned", EMPTY_HASH, Refused("payload_mismatch"), |f| {
        let hash = hex(&Sha256::digest(b"other"));
        let mut f = Forgery { payload: Some(hash.clone()), ..f };
        f.request.add("X-Amz-Content-Sha256", &hash);
        f
    }),
    ("with a hash declared and the body's own signed", EMPTY_HASH, Refused("mismatch"), |f| {
        let (declared, payload) = (hex(&Sha256::digest(b"")), Some(f.body_hash()));
        Forgery { payload, ..f.header("X-Amz-Content-Sha256", &declared) }
    }),
    // The token.
    ("with a token that the key does not have", "", Refused("token_mismatch"), |f| {
        f.header("X-Amz-Security-Token", TOKEN)
    }),
    ("with a token, unsigned, that the key does not have", "", Refused("token_mismatch"), |f| {
        let mut f = f;
        f.request.add("X-Amz-Security-Token", TOKEN);
        f
    }),
    ("by a temporary key without its token", "", Refused("token_mismatch"), |f| Forgery { id: TEMPORARY, ..f }),
    ("by a temporary key with an unsigned token", "", Harmless, |f| {
        let mut f = Forgery { id: TEMPORARY, ..f };
        f.request.add("X-Amz-Security-Token", TOKEN);
        f
    }),
    ("by a temporary key with another token", "", Refused("token_mismatch"), |f| {
        Forgery { id: TEMPORARY, ..f }.header("X-Amz-Security-Token", "another")
    }),
    ("by a stranger who guesses a token", "", Refused("mismatch"), |f| {
        Forgery { id: TEMPORARY, secret: "another secret", ..f }.header("X-Amz-Security-Token", "another")
    }),
    ("by a stranger who guesses a token and declares a hash", "", Refused("mismatch"), |f| {
        Forgery { id: TEMPORARY, secret: "another secret", ..f }.declared().header("X-Amz-Security-Token", "another")
    }),
    ("by a stranger who sends no token", "", Refused("mismatch"), |f| Forgery {
        id: TEMPORARY,
        secret: "another secret",
        ..f
    }),
];

/// A captured presigned request, changed.
const PRESIGNED: &[(&str, &str, Fate, Alter)] = &[
    ("unchanged", "", Harmless, |_| {}),
    // In part.
    ("no X-Amz-Algorithm", QUERY_ONLY, Refused("malformed"), |r| cut(r, "X-Amz-Algorithm")),
    ("no X-Amz-Credential", QUERY_ONLY, Refused("malformed"), |r| cut(r, "X-Amz-Credential")),
    ("no X-Amz-Date", QUERY_ONLY, Refused("malformed"), |r| cut(r, "X-Amz-Date")),
    ("no X-Amz-Expires", CLOCK, Refused("mismatch"), |r| cut(r, "X-Amz-Expires")),
    ("no X-Amz-SignedHeaders", QUERY_ONLY, Refused("malformed"), |r| cut(r, "X-Amz-SignedHeaders")),
    ("no X-Amz-Signature", QUERY_ONLY, Refused("malformed"), |r| cut(r, "X-Amz-Signature")),
    ("X-Amz-Credential alone", QUERY_ONLY, Refused("malformed"), |r| {
        let (path, _) = r.target.split_once('?').expect("a query");
        r.target = format!("{path}?{}", parameter(r, "X-Amz-Credential"));
    }),
    ("X-Amz-Signature alone", QUERY_ONLY, Refused("malformed"), |r| {
        let (path, _) = r.target.split_once('?').expect("a query");
        r.target = format!("{path}?{}", parameter(r, "X-Amz-Signature"));
    }),
    ("none of it", UNKNOWN_KIND, Coded("MISSING_AUTHORIZATION"), |r| {
        r.target = "/dispatch?stage=prod&a=%2B&a=1&flag=".into();
    }),
    // Twice, or in another spelling.
    ("X-Amz-Signature twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-Signature")),
    ("X-Amz-Credential twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-Credential")),
    ("X-Amz-SignedHeaders twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-SignedHeaders")),
    ("X-Amz-Date twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-Date")),
    ("X-Amz-Expires twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-Expires")),
    ("X-Amz-Algorithm twice, the same", DUPLICATE, Refused("malformed"), |r| again(r, "X-Amz-Algorithm")),
    ("X-Amz-Signature twice, an empty one behind", DUPLICATE, Refused("malformed"), |r| {
        r.target += "&X-Amz-Signature";
    }),
    ("X-Amz-Expires twice, more before", DUPLICATE, Refused("malformed"), |r| {
        query(r, "stage", "X-Amz-Expires=900&stage");
    }),
    ("x-amz-expires beside it", DUPLICATE, Refused("malformed"), |r| r.target += "&x-amz-expires=900"),
    ("X-AMZ-CREDENTIAL beside it", DUPLICATE, Refused("malformed"), |r| r.target += "&X-AMZ-CREDENTIAL=AKIDOTHER"),
    ("X%2DAmz-Signature beside it", DUPLICATE, Refused("malformed"), |r| r.target += "&X%2DAmz-Signature=1"),
    ("X-Amz-Signature with a letter escaped", "", Refused("malformed"), |r| {
        query(r, "X-Amz-Signature", "X-Amz-%53ignature");
    }),
    ("x-amz-date in lower case", "", Refused("malformed"), |r| query(r, "X-Amz-Date", "x-amz-date")),
    ("X_Amz_Signature beside it", LOOK_ALIKE, Refused("mismatch"), |r| r.target += "&X_Amz_Signature=1"),
    ("X+Amz+Signature beside it", LOOK_ALIKE, Refused("mismatch"), |r| r.target += "&X+Amz+Signature=1"),
    ("a name with a NUL behind", LOOK_ALIKE, Refused("mismatch"), |r| r.target += "&X-Amz-Signature%00=1"),
    ("Authorization beside it", QUERY_ONLY, Refused("malformed"), |r| {
        let value = plain().text("authorization");
        r.add("Authorization", &value);
    }),
    ("Bearer beside it", QUERY_ONLY, Refused("malformed"), |r| r.add("Authorization", "Bearer x")),
    ("an empty Authorization beside it", QUERY_ONLY, Refused("malformed"), |r| r.add("Authorization", "")),
    ("moved into the header", PURPOSE, Refused("unsigned_header"), |r| {
        let of = |name: &str| parameter(r, name).split_once('=').expect("a value").1.to_owned();
        let names = of("X-Amz-SignedHeaders").replace("%3B", ";");
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={ID}/{SCOPE_TEXT}, SignedHeaders={names}, Signature={}",
            of("X-Amz-Signature")
        );
        r.target = "/dispatch?stage=prod&a=%2B&a=1&flag=".into();
        r.add("X-Amz-Date", NOW_BASIC);
        r.add("Authorization", &value);
    }),
    // The values.
    ("another algorithm", ALGORITHM, Refused("unsupported_algorithm"), |r| query(r, "AWS4-HMAC", "AWS4-ECDSA-P256")),
    ("an empty algorithm", ALGORITHM, Refused("unsupported_algorithm"), |r| query(r, "AWS4-HMAC-SHA256", "")),
    ("another region", SCOPE, Refused("wrong_scope"), |r| query(r, "us-east-1", "us-east-2")),
    ("another region that is accepted", SCOPE, Refused("mismatch"), |r| query(r, "us-east-1", "eu-west-1")),
    ("another service", PURPOSE, Refused("wrong_scope"), |r| query(r, "execute-api", "s3")),
    ("another terminator", "", Refused("wrong_scope"), |r| query(r, "aws4_request", "aws5_request")),
    ("yesterday in the scope", CLOCK, Refused("wrong_scope"), |r| query(r, "20261122%2F", "20261121%2F")),
    ("four parts of Credential", "", Refused("malformed"), |r| query(r, "%2Faws4_request", "")),
    ("six parts of Credential", "", Refused("malformed"), |r| query(r, "%2Faws4_request", "%2Faws4_request%2F")),
    ("slashes escaped twice", ENCODING, Refused("malformed"), |r| query(r, "%2Faws4", "%252Faws4")),
    ("another key's id", "", Refused("mismatch"), |r| query(r, ID, "AKIDOTHER")),
    ("an unknown key id", "", Refused("mismatch"), |r| query(r, ID, "AKIDUNKNOWN")),
    ("a later date", CLOCK, Refused("mismatch"), |r| query(r, "T095651Z", "T095652Z")),
    ("a date that has expired", CLOCK, Refused("expired"), |r| query(r, "T095651Z", "T095550Z")),
    ("a date to come", CLOCK, Refused("not_yet_valid"), |r| query(r, "T095651Z", "T100152Z")),
    ("a date in another form", "", Refused("malformed"), |r| query(r, NOW_BASIC, "2026-11-22T09%3A56%3A51Z")),
    ("an empty date", "", Refused("malformed"), |r| query(r, NOW_BASIC, "")),
    ("X-Amz-Expires raised", CLOCK, Refused("mismatch"), |r| query(r, "Expires=60", "Expires=900")),
    ("X-Amz-Expires above what is allowed", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=901")),
    ("X-Amz-Expires above what there is", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=604801")),
    ("X-Amz-Expires that wraps", CLOCK, Refused("malformed"), |r| query(r, "=60", "=18446744073709551676")),
    ("X-Amz-Expires zero", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=0")),
    ("X-Amz-Expires empty", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=")),
    ("X-Amz-Expires negative", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=-60")),
    ("X-Amz-Expires with a sign", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=%2B60")),
    ("X-Amz-Expires with fractions", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=60.5")),
    ("X-Amz-Expires in words", CLOCK, Refused("malformed"), |r| query(r, "Expires=60", "Expires=1e3")),
    ("X-Amz-Expires with a zero in front", CLOCK, Refused("mismatch"), |r| query(r, "Expires=60", "Expires=060")),
    ("the signature altered", "", Refused("mismatch"), |r| {
        let pair = parameter(r, "X-Amz-Signature");
        let (name, signature) = pair.split_once('=').expect("a value");
        let other = format!("{name}={}", signature.chars().rev().collect::<String>());
        query(r, &pair, &other);
    }),
    ("the signature in upper case", "", Refused("malformed"), |r| {
        let pair = parameter(r, "X-Amz-Signature");
        let (name, signature) = pair.split_once('=').expect("a value");
        let other = format!("{name}={}", signature.to_uppercase());
        query(r, &pair, &other);
    }),
    ("the signature cut", "", Refused("malformed"), |r| r.target.truncate(r.target.len() - 1)),
    ("X-Amz-SignedHeaders empty", "", Refused("malformed"), |r| {
        let pair = parameter(r, "X-Amz-SignedHeaders");
        query(r, &pair, "X-Amz-SignedHeaders=");
    }),
    ("names in another order", "", Refused("malformed"), |r| query(r, "content-type%3Bhost", "host%3Bcontent-type")),
    ("host taken from the names", HOST, Refused("unsigned_header"), |r| query(r, "host%3B", "")),
    ("an x-amz- header taken from the names", INJECTED, Refused("unsigned_header"), |r| {
        query(r, "x-amz-meta-team%3B", "");
    }),
    ("an absent name put into the names", ABSENT, Refused("missing_signed_header"), |r| {
        query(r, "host%3B", "host%3Buser-agent%3B");
    }),
    // Everything that is bound.
    ("another method", "CVE-2022-2385 aws-iam-authenticator", Door("METHOD_NOT_ALLOWED", "mismatch"), |r| {
        r.method = "GET".into();
    }),
    ("another path", "CVE-2020-16251 Vault", Door("NOT_FOUND", "mismatch"), |r| path(r, "/other")),
    ("another host", HOST, Refused("mismatch"), |r| r.set("host", "other.example")),
    ("absolute form of another host", FOREIGN, Coded("INVALID_REQUEST"), |r| {
        r.target = format!("http://other.example{}", r.target);
    }),
    ("a pair added", DUPLICATE, Refused("mismatch"), |r| r.target += "&b=1"),
    ("a pair removed", "", Refused("mismatch"), |r| query(r, "stage=prod&", "")),
    ("a value altered", "", Refused("mismatch"), |r| query(r, "prod", "prof")),
    ("another body", EMPTY_HASH, Refused("mismatch"), |r| r.body = br#"{"intent":"delete_everything"}"#.to_vec()),
    ("the body emptied", EMPTY_HASH, Refused("mismatch"), |r| r.body.clear()),
    ("a space behind the body", "", Refused("mismatch"), |r| r.body.push(b' ')),
    ("a signed header altered", "", Refused("mismatch"), |r| r.set("x-amz-meta-team", "b")),
    ("a signed header removed", ABSENT, Refused("missing_signed_header"), |r| r.remove("x-correlation-id")),
    ("an x-amz- header added", INJECTED, Refused("unsigned_header"), |r| r.add("X-Amz-Copy-Source", "/other")),
    ("X-Amz-Date in a header too", DUPLICATE, Refused("unsigned_header"), |r| r.add("X-Amz-Date", NOW_BASIC)),
    ("a date in a header too", CLOCK, Harmless, |r| r.add("Date", "Sun, 06 Nov 1994 08:49:37 GMT")),
    ("a token added", "", Refused("token_mismatch"), |r| r.target += "&X-Amz-Security-Token=t"),
    ("a token added in a header", "", Refused("token_mismatch"), |r| r.add("X-Amz-Security-Token", "t")),
    ("an empty token added", "", Refused("token_mismatch"), |r| r.target += "&X-Amz-Security-Token="),
    ("the hash of nothing added", EMPTY_HASH, Refused("mismatch"), |r| {
        r.add("X-Amz-Content-Sha256", &hex(&Sha256::digest(b"")));
    }),
    ("the body's own hash added in the query", EMPTY_HASH, Refused("mismatch"), |r| {
        r.target += &format!("&X-Amz-Content-Sha256={}", hex(&Sha256::digest(&r.body)));
    }),
    ("UNSIGNED-PAYLOAD added", EMPTY_HASH, Refused("payload_mismatch"), |r| {
        r.add("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD");
    }),
    ("UNSIGNED-PAYLOAD added in the query", EMPTY_HASH, Refused("payload_mismatch"), |r| {
        r.target += "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD";
    }),
    ("chunk signatures added in the query", CHUNKS, Refused("unsupported_algorithm"), |r| {
        r.target += "&X-Amz-Content-Sha256=STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    }),
    // What is free.
    ("escapes spelt otherwise", "", Harmless, |r| query(r, &format!("{ID}%2F"), "%41KIDEXAMPLE%2f")),
    ("the signature first", "", Harmless, |r| {
        let pair = parameter(r, "X-Amz-Signature");
        cut(r, "X-Amz-Signature");
        query(r, "stage", &format!("{pair}&&stage"));
    }),
    ("the body's own hash in a header", "", Harmless, |r| {
        let hash = hex(&Sha256::digest(&r.body));
        r.add("X-Amz-Content-Sha256", &hash);
    }),
];

/// Presigned by whoever has the secret, for something else or in another way.
const RE_PRESIGNED: &[(&str, &str, Fate, Forge)] = &[
    ("honestly", "", Harmless, |f| f),
    ("for the longest time allowed", CLOCK, Harmless, |f| f.parameter("X-Amz-Expires", "900")),
    ("for longer than is allowed", CLOCK, Refused("malformed"), |f| f.parameter("X-Amz-Expires", "901")),
    ("for a week", CLOCK, Refused("malformed"), |f| f.parameter("X-Amz-Expires", "604800")),
    ("for no time", CLOCK, Refused("malformed"), |f| f.parameter("X-Amz-Expires", "0")),
    ("without X-Amz-Expires", CLOCK, Harmless, |f| f.without_parameter("X-Amz-Expires")),
    ("a minute ago", CLOCK, Harmless, |f| presigned_at(f, "20261122T095551Z")),
    ("over a minute ago", CLOCK, Refused("expired"), |f| presigned_at(f, "20261122T095550Z")),
    ("long ago for a week", CLOCK, Refused("malformed"), |f| {
        presigned_at(f, "20261122T000000Z").parameter("X-Amz-Expires", "604800")
    }),
    ("five minutes ahead", CLOCK, Harmless, |f| presigned_at(f, "20261122T100151Z")),
    ("over five minutes ahead", CLOCK, Refused("not_yet_valid"), |f| presigned_at(f, "20261122T100152Z")),
    ("five minutes ago without X-Amz-Expires", CLOCK, Harmless, |f| {
        presigned_at(f, "20261122T095151Z").without_parameter("X-Amz-Expires")
    }),
    ("over five minutes ago without X-Amz-Expires", CLOCK, Refused("expired"), |f| {
        presigned_at(f, "20261122T095150Z").without_parameter("X-Amz-Expires")
    }),
    ("without host", HOST, Refused("unsigned_header"), |f| {
        let f = f.not("host");
        let names = f.signed.clone();
        f.parameter("X-Amz-SignedHeaders", &names)
    }),
    ("with host alone", INJECTED, Refused("unsigned_header"), |f| {
        Forgery { signed: "host".into(), ..f }.parameter("X-Amz-SignedHeaders", "host")
    }),
    ("with a header that is absent", ABSENT, Refused("missing_signed_header"), |f| {
        let f = f.also("x-absent");
        let names = f.signed.clone();
        f.parameter("X-Amz-SignedHeaders", &names)
    }),
    ("with another secret", "", Refused("mismatch"), |f| Forgery { secret: "another secret", ..f }),
    ("without AWS4 before the secret", "", Refused("mismatch"), |f| Forgery { prefix: "", ..f }),
    ("with the key of yesterday", CLOCK, Refused("mismatch"), |f| Forgery {
        derived: ["20261121", "us-east-1", "execute-api", "aws4_request"],
        ..f
    }),
    ("by a disabled key", "", Refused("mismatch"), |f| presigned_by(f, "AKIDDISABLED")),
    ("by a key that is no longer valid", "", Refused("mismatch"), |f| presigned_by(f, "AKIDLAPSED")),
    ("for another region", SCOPE, Refused("wrong_scope"), |f| {
        scoped(f, [TODAY, "us-west-2", "execute-api", "aws4_request"])
            .parameter("X-Amz-Credential", "AKIDEXAMPLE/20261122/us-west-2/execute-api/aws4_request")
    }),
    ("for S3", PURPOSE, Refused("wrong_scope"), |f| {
        scoped(f, [TODAY, "us-east-1", "s3", "aws4_request"])
            .parameter("X-Amz-Credential", "AKIDEXAMPLE/20261122/us-east-1/s3/aws4_request")
    }),
    ("for an unsigned body, as S3 does", EMPTY_HASH, Refused("mismatch"), |f| Forgery {
        payload: Some("UNSIGNED-PAYLOAD".into()),
        ..f
    }),
    ("for an unsigned body, and saying so", EMPTY_HASH, Refused("payload_mismatch"), |f| {
        let payload = Some("UNSIGNED-PAYLOAD".into());
        Forgery { payload, ..f }.parameter("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
    }),
    ("for an empty body", EMPTY_HASH, Refused("mismatch"), |f| {
        let payload = Some(hex(&Sha256::digest(b"")));
        Forgery { payload, ..f }
    }),
    ("for an empty body, and saying so", EMPTY_HASH, Refused("payload_mismatch"), |f| {
        let hash = hex(&Sha256::digest(b""));
        Forgery { payload: Some(hash.clone()), ..f }.parameter("X-Amz-Content-Sha256", &hash)
    }),
    ("with the body's hash in the query", "", Harmless, |f| {
        let hash = f.body_hash();
        f.parameter("X-Amz-Content-Sha256", &hash)
    }),
    ("with the body's hash in the query and in a header", DUPLICATE, Refused("malformed"), |f| {
        let hash = f.body_hash();
        let mut f = f.parameter("X-Amz-Content-Sha256", &hash);
        f.request.add("X-Amz-Content-Sha256", &hash);
        f
    }),
    ("with its date in the query and in a header", DUPLICATE, Refused("malformed"), |f| {
        let f = f.header("X-Amz-Date", NOW_BASIC);
        let names = f.signed.clone();
        f.parameter("X-Amz-SignedHeaders", &names)
    }),
    // The token.
    ("by a temporary key with its token", "", Harmless, |f| {
        presigned_by(f, TEMPORARY).parameter("X-Amz-Security-Token", TOKEN)
    }),
    ("by a temporary key with its token added behind", "", Harmless, |f| {
        let appended = format!("&X-Amz-Security-Token={}", TOKEN.replace('/', "%2F"));
        Forgery { appended, ..presigned_by(f, TEMPORARY) }
    }),
    ("by a temporary key with its token in a header", "", Harmless, |f| {
        let mut f = presigned_by(f, TEMPORARY);
        f.request.add("X-Amz-Security-Token", TOKEN);
        f
    }),
    ("by a temporary key with its token in both", DUPLICATE, Refused("malformed"), |f| {
        let mut f = presigned_by(f, TEMPORARY).parameter("X-Amz-Security-Token", TOKEN);
        f.request.add("X-Amz-Security-Token", TOKEN);
        f
    }),
    ("by a temporary key with its token twice", DUPLICATE, Refused("malformed"), |f| {
        let appended = format!("&X-Amz-Security-Token={}", TOKEN.replace('/', "%2F"));
        Forgery { appended, ..presigned_by(f, TEMPORARY) }.parameter("X-Amz-Security-Token", TOKEN)
    }),
    ("by a temporary key with another token", "", Refused("token_mismatch"), |f| {
        presigned_by(f, TEMPORARY).parameter("X-Amz-Security-Token", "another")
    }),
    ("by a temporary key with another token added behind", "", Refused("token_mismatch"), |f| Forgery {
        appended: "&X-Amz-Security-Token=another".into(),
        ..presigned_by(f, TEMPORARY)
    }),
    ("by a temporary key without its token", "", Refused("token_mismatch"), |f| presigned_by(f, TEMPORARY)),
    ("with a pair added beside the token behind", DUPLICATE, Refused("mismatch"), |f| {
        let appended = format!("&X-Amz-Security-Token={}&b=1", TOKEN.replace('/', "%2F"));
        Forgery { appended, ..presigned_by(f, TEMPORARY) }
    }),
];

fn presigned_at(forgery: Forgery, stamp: &str) -> Forgery {
    Forgery { stamp: stamp.into(), ..forgery }.parameter("X-Amz-Date", stamp)
}

fn presigned_by(forgery: Forgery, id: &'static str) -> Forgery {
    Forgery { id, ..forgery }.parameter("X-Amz-Credential", &format!("{id}/{SCOPE_TEXT}"))
}

/// A parameter of the query, as it stands there.
fn parameter(request: &Request, name: &str) -> String {
    let (_, query) = request.target.split_once('?').expect("a query");
    let found = query.split('&').find(|pair| pair.split('=').next() == Some(name));
    found.unwrap_or_else(|| panic!("no {name} in {query}")).to_owned()
}

fn cut(request: &mut Request, name: &str) {
    let pair = format!("&{}", parameter(request, name));
    query(request, &pair, "");
}

fn again(request: &mut Request, name: &str) {
    request.target += &format!("&{}", parameter(request, name));
}

impl Forgery {
    /// One more value of a name that is signed.
    fn twice(mut self, name: &str, value: &str) -> Self {
        self.request.add(name, value);
        self
    }
}

fn scoped(forgery: Forgery, parts: [&'static str; 4]) -> Forgery {
    Forgery { derived: parts, scope: parts.join("/"), ..forgery }
}

fn dated(mut forgery: Forgery, stamp: &str, day: &'static str) -> Forgery {
    forgery.request.set("x-amz-date", stamp);
    forgery.stamp = stamp.into();
    scoped(forgery, [day, "us-east-1", "execute-api", "aws4_request"])
}

fn path(request: &mut Request, path: &str) {
    let (_, query) = request.target.split_once('?').expect("a query");
    request.target = format!("{path}?{query}");
}

fn query(request: &mut Request, from: &str, to: &str) {
    let (path, query) = request.target.split_once('?').expect("a query");
    assert!(query.contains(from), "{query} lacks {from}");
    request.target = format!("{path}?{}", query.replacen(from, to, 1));
}

fn shorten(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() - 1);
}

fn set_signature(request: &mut Request, change: impl Fn(&str) -> String) {
    let text = request.text("authorization");
    let (before, signature) = text.rsplit_once('=').expect("a signature");
    request.set("authorization", &format!("{before}={}", change(signature)));
}

fn set_signed(request: &mut Request, names: &str) {
    let text = request.text("authorization");
    let (before, rest) = text.split_once("SignedHeaders=").expect("signed headers");
    let (_, behind) = rest.split_once(',').expect("a comma");
    request.set("authorization", &format!("{before}SignedHeaders={names},{behind}"));
}

/// One character of each part of a captured request, at each place in it.
fn each_part() -> Vec<Attack> {
    let mut rows = Vec::new();
    let mut row = |name: String, request: Request, fate| rows.push(Attack { name, source: "", request, fate });
    for at in 0..64 {
        let mut request = plain();
        set_signature(&mut request, |signature| {
            let mut digits = signature.to_owned().into_bytes();
            digits[at] = if digits[at] == b'0' { b'1' } else { b'0' };
            String::from_utf8(digits).expect("ASCII")
        });
        row(format!("digit {at} of the signature"), request, Refused("mismatch"));
    }
    for name in ["content-type", "x-amz-meta-team", "x-correlation-id", "host"] {
        let length = plain().value(name).len();
        let mut places = vec![0, length / 2, length - 1];
        places.dedup();
        for at in places {
            let mut request = plain();
            let byte = &mut request.value(name)[at];
            *byte = if *byte == b'q' { b'r' } else { b'q' };
            let fate = match name == "content-type" {
                true => Door("UNSUPPORTED_MEDIA_TYPE", "mismatch"),
                false => Refused("mismatch"),
            };
            row(format!("byte {at} of {name}"), request, fate);
        }
    }
    rows
}

/// Headers that change what a request does elsewhere, at each place among the others, in each spelling.
fn injections() -> Vec<Attack> {
    let mut rows = Vec::new();
    for name in [
        "x-amz-acl",
        "x-amz-copy-source",
        "x-amz-target",
        "x-amz-date-",
        "x-amz-",
        "x-amz-meta-x",
        "x-amz-content-sha256-",
        "x-amz-content-sha1",
        "x-amz-security-tokens",
        "x-amz-cf-id-2",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-signature",
        "x-amz-signedheaders",
        "x-amz-expires",
        "x-amz-decoded-content-length",
        "x-amz-trailer",
        "x-amz-user-agent",
        "x-amz-tagging",
        "x-amz-website-redirect-location",
    ] {
        for (place, at) in [("before", 0), ("between", 3), ("after", usize::MAX)] {
            let spelt = match place {
                "before" => name.to_owned(),
                "between" => name.to_uppercase(),
                _ => name.replace("x-a", "X-A"),
            };
            let mut request = plain();
            request.insert(at.min(request.fields.len()), &spelt, "1");
            let name = format!("{name} {place} the others");
            rows.push(Attack { name, source: INJECTED, request, fate: Refused("unsigned_header") });
        }
    }
    rows
}

/// What stands for a hash in `x-amz-content-sha256`: put into a captured request, signed, signed unlisted.
fn payload_words() -> Vec<Attack> {
    let mut rows = Vec::new();
    for (word, issue) in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "unsupported_algorithm"),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", "unsupported_algorithm"),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "unsupported_algorithm"),
        ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", "unsupported_algorithm"),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", "unsupported_algorithm"),
        ("STREAMING-AWS4-HMAC-SHA256-EVENTS", "unsupported_algorithm"),
        ("STREAMING-", "unsupported_algorithm"),
        ("streaming-aws4-hmac-sha256-payload", "malformed"),
        ("UNSIGNED-PAYLOAD", "payload_mismatch"),
        ("unsigned-payload", "malformed"),
        ("UNSIGNED-PAYLOAD ,x", "malformed"),
        ("UNSIGNED", "malformed"),
    ] {
        let source = if word.starts_with('S') || word.starts_with('s') { CHUNKS } else { "" };
        let mut row = |how: &str, request| {
            rows.push(Attack { name: format!("{word} {how}"), source, request, fate: Refused(issue) });
        };
        let mut captured = declared();
        captured.set("x-amz-content-sha256", word);
        row("put into a captured request", captured);
        let mut captured = plain();
        captured.add("x-amz-content-sha256", word);
        row("added to a captured request", captured);
        let signed = Forgery { payload: Some(word.into()), ..Forgery::honest() };
        row("signed", signed.clone().header("X-Amz-Content-Sha256", word).seal());
        let mut unlisted = signed.clone();
        unlisted.request.add("X-Amz-Content-Sha256", word);
        row("signed unlisted", unlisted.seal());
        row("signed, with a body of signed chunks", signed_chunks(signed.header("X-Amz-Content-Sha256", word)));
    }
    rows
}

/// The body as S3 clients upload it: every chunk with a signature that continues the one before.
fn signed_chunks(mut forgery: Forgery) -> Request {
    let body = std::mem::take(&mut forgery.request.body);
    let length = body.len().to_string();
    let forgery = forgery
        .header("Content-Encoding", "aws-chunked")
        .header("X-Amz-Decoded-Content-Length", &length)
        .header("X-Amz-Trailer", "x-amz-checksum-crc32");
    let (key, scope) = (forgery.key(), forgery.scope.clone());
    let mut signature = forgery.signature();
    let mut request = forgery.with_signature(&signature.clone());
    for chunk in [&body[..], b""] {
        let empty = hex(&Sha256::digest(b""));
        let hash = hex(&Sha256::digest(chunk));
        let text = format!("AWS4-HMAC-SHA256-PAYLOAD\n{NOW_BASIC}\n{scope}\n{signature}\n{empty}\n{hash}");
        signature = hex(&hmac(&key, text.as_bytes()));
        request.body.extend(format!("{:x};chunk-signature={signature}\r\n", chunk.len()).bytes());
        request.body.extend(chunk.iter().chain(b"\r\n"));
    }
    request
}

/// Right signatures, or what once passed for one, of something that is no request of this kind.
fn signatures_of_something_else() -> Vec<Attack> {
    let honest = Forgery::honest;
    let keyless = |text: String| hex(&Sha256::digest(text));
    let with_key = |key: &[u8], text: &str| hex(&hmac(key, text.as_bytes()));
    let text = honest().string_to_sign();
    let presigned = format!(
        "POST\n/dispatch\nX-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={ID}%2F{}&X-Amz-Date={NOW_BASIC}\
         &X-Amz-SignedHeaders=host&a=%2B&a=1&flag=&stage=prod\nhost:orbit.example\n\nhost\n{}",
        SCOPE_TEXT.replace('/', "%2F"),
        honest().body_hash()
    );
    let chunk = format!("AWS4-HMAC-SHA256-PAYLOAD\n{NOW_BASIC}\n{SCOPE_TEXT}\n{}\n{}\n{}", "0".repeat(64), "0", "0");
    [
        ("a hash without a key", KEYLESS, keyless(text.clone())),
        ("a hash of the canonical request", KEYLESS, text.rsplit('\n').next().unwrap_or_default().to_owned()),
        ("a hash of the secret and the string to sign", KEYLESS, keyless(format!("{SECRET}{text}"))),
        ("a signature with no key", KEYLESS, with_key(b"", &text)),
        ("a signature with the secret itself", KEYLESS, with_key(SECRET.as_bytes(), &text)),
        ("a signature with the key in hexadecimal", KEYLESS, with_key(hex(&honest().key()).as_bytes(), &text)),
        ("a signature of the scope alone", PURPOSE, with_key(&honest().key(), SCOPE_TEXT)),
        ("a signature of nothing", PURPOSE, with_key(&honest().key(), "")),
        ("a signature of a chunk", CHUNKS, with_key(&honest().key(), &chunk)),
        ("a signature of a POST policy", PURPOSE, with_key(&honest().key(), "eyJleHBpcmF0aW9uIjoiMjAzMCJ9")),
        (
            "a signature of the same request presigned",
            PURPOSE,
            Forgery { canonical: Some(presigned), ..honest() }.signature(),
        ),
        ("a signature of another body", "", {
            let mut other = honest();
            other.request.body = b"{}".to_vec();
            other.signature()
        }),
    ]
    .into_iter()
    .map(|(name, source, signature)| {
        let request = honest().with_signature(&signature);
        Attack { name: name.into(), source, request, fate: Refused("mismatch") }
    })
    .collect()
}

/// Every element of the grammar as large as it may be, and larger.
fn at_the_limits() -> Vec<Attack> {
    let mut rows = Vec::new();
    let mut row = |name: &str, fate, request| rows.push(Attack { name: name.into(), source: "", request, fate });
    let altered = |alter: &dyn Fn(&mut Request)| {
        let mut request = plain();
        alter(&mut request);
        request
    };
    let id = |length: usize| altered(&|r| r.replace("authorization", ID, &"A".repeat(length)));
    row("a key id of 128 characters", Refused("mismatch"), id(128));
    row("a key id of 129 characters", Refused("malformed"), id(129));
    row("a key id of 8 KiB", Refused("malformed"), id(8192));
    let region = |length: usize| altered(&|r| r.replace("authorization", "us-east-1", &"a".repeat(length)));
    row("a region of 8 KiB", Refused("wrong_scope"), region(8192));
    let authorization = |text: String| altered(&|r| r.set("authorization", &text));
    let repeated = |piece: &str| authorization(format!("AWS4-HMAC-SHA256 {}", piece.repeat(8192 / piece.len())));
    row("8 KiB of commas", Refused("malformed"), repeated(","));
    row(
        "8 KiB of slashes",
        Refused("malformed"),
        authorization(format!("AWS4-HMAC-SHA256 Credential={}", "/".repeat(8192))),
    );
    row("8 KiB of blanks", Refused("malformed"), authorization(format!("AWS4-HMAC-SHA256{}x", " \t".repeat(4096))));
    row(
        "8 KiB of signed names",
        Refused("malformed"),
        altered(&|r| {
            set_signed(r, &(0..1024).map(|n| format!("h{n:06}")).collect::<Vec<_>>().join(";"));
        }),
    );
    row(
        "a signed name of 8 KiB",
        Refused("missing_signed_header"),
        altered(&|r| {
            r.replace("authorization", "content-type;", &format!("content-type;{};", "h".repeat(8192)));
        }),
    );
    row("a signature of 8 KiB", Refused("malformed"), altered(&|r| set_signature(r, |s| s.repeat(128))));

    let signed = |fields: usize| {
        let mut forgery = Forgery::honest();
        // Authorization and Content-Length come on top.
        for n in forgery.request.fields.len() + 2..fields {
            forgery = forgery.header(&format!("X-{n}"), "1");
        }
        forgery.seal()
    };
    row("128 fields, all but two of them signed", Harmless, signed(128));
    row("129 fields, all but two of them signed", Coded("HEADERS_TOO_LARGE"), signed(129));

    let long = |length: usize| {
        let forgery = Forgery::honest();
        let room = length - "/dispatch?".len();
        let pairs: Vec<String> = (0..room / 8).map(|n| format!("p{n:04}=v")).collect();
        let mut query = pairs.join("&");
        query += &iter::repeat_n('x', room - query.len()).collect::<String>();
        let mut request = forgery.request.clone();
        request.target = format!("/dispatch?{query}");
        Forgery { request, query, ..forgery }.seal()
    };
    row("a target of 8192 bytes", Harmless, long(8192));
    row("a target of 8193 bytes", Coded("URI_TOO_LONG"), long(8193));

    let token = |length: usize| Forgery::honest().header("X-Amz-Security-Token", &"t".repeat(length)).seal();
    row("a token of 8 KiB that the key does not have", Refused("token_mismatch"), token(8192));
    let date = altered(&|r| r.set("x-amz-date", &"2".repeat(8192)));
    row("a date of 8 KiB", Refused("malformed"), date);
    let hash = altered(&|r| r.add("x-amz-content-sha256", &"a".repeat(8192)));
    row("a hash of 8 KiB", Refused("malformed"), hash);
    rows
}

/// A row of the signatures made anew, not yet signed.
pub(super) fn re_signed(name: &str) -> Forgery {
    let row = RE_SIGNED.iter().find(|(row, ..)| *row == name);
    row.unwrap_or_else(|| panic!("no row {name}")).3(Forgery::honest())
}
