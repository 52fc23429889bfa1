//! The mistakes that are known, one entry each, in the order they are tried: what is often done wrong and cheap
//! to test comes first.
//!
//! An entry is tested by a request that is signed that wrong way, in the tests below. To add one, copy an entry
//! and its test; the page `docs/sigv4.md` follows.

use secrecy::ExposeSecret;

use super::Audience::{self, Caller, Operator};
use super::bench::{Bench, Case, FIELDS_TRIED_MAX, Lines, basic, prefixed, scope, seed};
use crate::auth::canonical::{self, escapes_are_valid, unescape, write_path, write_query};
use crate::auth::stamp::Stamp;
use crate::auth::verify::{UNSIGNED_PAYLOAD, hex};
use sha2::{Digest, Sha256};

/// One thing that whoever signed may have done otherwise.
pub struct Hypothesis {
    /// Stable; part of the output of `orbit sigv4 verify`.
    pub name: &'static str,
    /// Goes on after "the signature matches".
    pub means: &'static str,
    /// What to change, as an instruction.
    pub change: &'static str,
    /// Who may be told. Callers hear how a request must be written, never of secrets or tokens.
    pub told: Audience,
    /// The detail to tell, beginning with a space or empty, if the signature holds under this hypothesis.
    pub(super) test: fn(&Case<'_>, &mut Bench<'_>) -> Option<String>,
}

const KEEP_THE_BODY: &str = "sign the very bytes that are sent, and send them unchanged";
const ENCODE_THE_QUERY: &str =
    "decode every name and value of the query, encode them again with %XX for all but A-Z a-z 0-9 - . _ ~, then sort";
const KEEP_THE_HOST: &str = "sign the Host that is sent, and make proxies preserve it \
                             (for an ALB `routing.http.preserve_host_header.enabled`)";
const WRITE_THE_HEADERS: &str = "write each signed header as `name:value` in lower case and order of the names, values \
                                 trimmed and as sent, then an empty line, then the names joined by `;`";

/// Every hypothesis, in the order they are tried.
pub const HYPOTHESES: &[Hypothesis] = &[
    Hypothesis {
        name: "body_line_end_removed",
        means: "without the line end or white space at the end of the body",
        change: KEEP_THE_BODY,
        told: Caller,
        test: |case, bench| {
            let body = case.body?;
            let one = body.strip_suffix(b"\n").map(|body| body.strip_suffix(b"\r").unwrap_or(body));
            let candidates = [one.unwrap_or(body), body.trim_ascii_end(), body.trim_ascii()];
            any(candidates, |candidate| candidate != body && bench.body(candidate))
        },
    },
    Hypothesis {
        name: "body_line_end_added",
        means: "with a line end behind the body",
        change: KEEP_THE_BODY,
        told: Caller,
        test: |case, bench| {
            any([&b"\n"[..], b"\r\n"], |end| case.body.is_some_and(|body| bench.body(&[body, end].concat())))
        },
    },
    Hypothesis {
        name: "body_line_ends_changed",
        means: "with other line ends inside the body",
        change: "send bodies as binary: something between signer and Orbit turns LF into CRLF or back",
        told: Caller,
        test: |case, bench| {
            let body = case.body.filter(|body| memchr::memchr(b'\n', body).is_some())?;
            let lf = replaced(body, b"\r\n", b"\n");
            let crlf = replaced(&lf, b"\n", b"\r\n");
            any([lf, crlf], |candidate| candidate != body && bench.body(&candidate))
        },
    },
    Hypothesis {
        name: "body_mark_removed",
        means: "without the byte order mark before the body",
        change: "write bodies as UTF-8 without a byte order mark",
        told: Caller,
        test: |case, bench| matched(case.body?.strip_prefix(b"\xef\xbb\xbf").is_some_and(|body| bench.body(body))),
    },
    Hypothesis {
        name: "body_not_hashed",
        means: "for an empty body",
        change: "hash the body that is sent, for every method",
        told: Caller,
        test: |case, bench| matched(case.body.is_none_or(|body| !body.is_empty()) && bench.body(b"")),
    },
    Hypothesis {
        name: "payload_unsigned",
        means: "for UNSIGNED-PAYLOAD in place of the body's hash",
        change: "sign the body: that word is for S3, and must be declared in X-Amz-Content-Sha256",
        told: Caller,
        test: |_, bench| matched(bench.payload(UNSIGNED_PAYLOAD)),
    },
    Hypothesis {
        name: "payload_hash_of_body",
        means: "for the hash of the body, which is not what X-Amz-Content-Sha256 declares",
        change: "set X-Amz-Content-Sha256 before signing, to the hash that is signed",
        told: Caller,
        test: |case, bench| matched(case.body.is_some_and(|body| bench.payload(&hex(&Sha256::digest(body))))),
    },
    Hypothesis {
        name: "payload_hash_spelt_otherwise",
        means: "with the body's hash in capitals or left out",
        change: "end the canonical request with the SHA-256 of the body in 64 lower-case hexadecimal digits",
        told: Caller,
        test: |case, bench| {
            let hash = hex(&Sha256::digest(case.body?)).to_ascii_uppercase();
            any([&hash[..], b""], |line| bench.payload(line))
        },
    },
    Hypothesis {
        name: "host_port",
        means: "with another port, or none, in `host`",
        change: KEEP_THE_HOST,
        told: Caller,
        test: |case, bench| {
            let name = without_port(case.lines.field(b"host")?);
            let forwarded = case.head.all(b"x-forwarded-port").next().unwrap_or_default();
            let ports = [&b""[..], b"80", b"443", b"8080", forwarded];
            any(ports, |port| bench.field(b"host", &with_port(name, port)))
        },
    },
    Hypothesis {
        name: "host_rewritten",
        means: "with the host that a proxy tells in X-Forwarded-Host or Forwarded",
        change: KEEP_THE_HOST,
        told: Caller,
        test: |case, bench| {
            let forwarded = case.head.all(b"forwarded").next().and_then(forwarded_host);
            let told = case.head.all(b"x-forwarded-host").chain(case.head.all(b"x-original-host")).chain(forwarded);
            any(told.take(4).flat_map(|host| [host, without_port(host)]), |host| bench.field(b"host", host))
        },
    },
    Hypothesis {
        name: "host_case",
        means: "with `host` in lower case",
        change: "sign the Host as it is sent, or send it in lower case",
        told: Caller,
        test: |case, bench| matched(bench.field(b"host", &case.lines.field(b"host")?.to_ascii_lowercase())),
    },
    Hypothesis {
        name: "content_type_parameter",
        means: "with another parameter in `content-type`",
        change: "set Content-Type before signing to what the HTTP library sends: many add `; charset=utf-8` or a boundary",
        told: Caller,
        test: |case, bench| {
            let essence = until(case.lines.field(b"content-type")?, b';').trim_ascii_end();
            let parameters = [&b""[..], b"; charset=utf-8", b"; charset=UTF-8", b";charset=utf-8", b";charset=UTF-8"];
            any(parameters, |parameter| bench.field(b"content-type", &[essence, parameter].concat()))
        },
    },
    Hypothesis {
        name: "trace_id_extended",
        means: "without what a load balancer added to `x-amzn-trace-id`",
        change: "leave X-Amzn-Trace-Id out of SignedHeaders",
        told: Caller,
        test: |case, bench| {
            let value = case.lines.field(b"x-amzn-trace-id")?;
            let kept: Vec<&[u8]> =
                value.split(|&b| b == b';').filter(|part| !part.trim_ascii().starts_with(b"Self=")).collect();
            matched(bench.field(b"x-amzn-trace-id", &kept.join(&b';')))
        },
    },
    Hypothesis {
        name: "method",
        means: "with another method",
        change: "sign the method that is sent, in capitals; a redirect or a library may change it",
        told: Caller,
        test: |case, bench| {
            let lower = case.lines.method.to_ascii_lowercase();
            let methods = [&b"POST"[..], b"GET", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", &lower];
            let found = methods.into_iter().find(|method| bench.method(method))?;
            Some(format!(", {}", String::from_utf8_lossy(found)))
        },
    },
    Hypothesis {
        name: "path_encoded_otherwise",
        means: "with the path encoded once instead of twice, or not at all",
        change: "for every service but S3, encode the path once more as it is sent: `/a%20b` is signed as `/a%2520b`",
        told: Caller,
        test: |case, bench| {
            let sent = case.head.path().as_bytes();
            let escaped = escapes_are_valid(sent);
            let once = escaped.then(|| path(sent, canonical::Path::EncodedOnce));
            let bare = escaped.then(|| unescape(sent, b'+').collect());
            any(once.into_iter().chain([sent.to_vec()]).chain(bare), |path| {
                !case.parts.is_for_s3() && bench.path(&path)
            })
        },
    },
    Hypothesis {
        name: "path_encoded_once_more",
        means: "with the path encoded once too often",
        change: "encode the path as it is sent exactly once more (S3: not again), not the path that a library already encoded",
        told: Caller,
        test: |case, bench| {
            let twice = path(case.lines.path, canonical::Path::AsSent);
            let sent = path(case.head.path().as_bytes(), canonical::Path::Normalised);
            any([twice, sent], |path| bench.path(&path))
        },
    },
    Hypothesis {
        name: "path_slash",
        means: "with or without the slash at the end of the path",
        change: "sign the path that is sent; a library, a redirect or a proxy adds or removes the last slash",
        told: Caller,
        test: |case, bench| {
            let path = case.lines.path;
            let candidate = path.strip_suffix(b"/").map_or_else(|| [path, b"/"].concat(), <[u8]>::to_vec);
            matched(bench.path(&candidate))
        },
    },
    Hypothesis {
        name: "path_left_out",
        means: "for the path `/`, or none",
        change: "sign the path that is sent, beginning with its first slash",
        told: Caller,
        test: |_, bench| any([&b"/"[..], b""], |path| bench.path(path)),
    },
    Hypothesis {
        name: "query_unsorted",
        means: "with the query in the order it was sent",
        change: ENCODE_THE_QUERY,
        told: Caller,
        test: |case, bench| {
            let pairs: Vec<Vec<u8>> = case.sent_pairs().map(query).collect();
            let mut by_name = pairs.clone();
            by_name.sort_by(|a, b| until(a, b'=').cmp(until(b, b'=')));
            any([pairs, by_name], |pairs| bench.query(&pairs.join(&b'&')))
        },
    },
    Hypothesis {
        name: "query_sorted_as_strings",
        means: "with the query sorted as whole `name=value` strings",
        change: "sort by encoded name and then by encoded value: `a=` comes before `a-b=` and `a1=`",
        told: Caller,
        test: |case, bench| {
            let mut pairs: Vec<&[u8]> = case.lines.query.split(|&b| b == b'&').collect();
            pairs.sort_unstable();
            matched(bench.query(&pairs.join(&b'&')))
        },
    },
    Hypothesis {
        name: "query_plus",
        means: "with `+` in the query read as a plus sign, or written for a space",
        change: "send and sign a space as %20 and a plus sign as %2B: a bare `+` is read as a space",
        told: Caller,
        test: |case, bench| {
            let sent: Vec<&[u8]> = case.sent_pairs().collect();
            let as_plus = query(&replaced(&sent.join(&b'&'), b"+", b"%2B"));
            let bare = replaced(&as_plus, b"%2B", b"+");
            any([as_plus, bare, replaced(case.lines.query, b"%20", b"+")], |query| bench.query(&query))
        },
    },
    Hypothesis {
        name: "query_escapes_in_lower_case",
        means: "with the query's escapes in lower case",
        change: "write escapes in capitals: %2F, not %2f",
        told: Caller,
        test: |case, bench| matched(bench.query(&lower_escapes(case.lines.query))),
    },
    Hypothesis {
        name: "query_empty_values",
        means: "with names that have no value written without `=`, or left out",
        change: "sign `flag` as `flag=`",
        told: Caller,
        test: |case, bench| {
            let pairs: Vec<&[u8]> = case.lines.query.split(|&b| b == b'&').collect();
            let bare: Vec<&[u8]> = pairs.iter().map(|pair| pair.strip_suffix(b"=").unwrap_or(pair)).collect();
            let without: Vec<&[u8]> = pairs.into_iter().filter(|pair| !pair.ends_with(b"=")).collect();
            any([bare.join(&b'&'), without.join(&b'&')], |query| bench.query(&query))
        },
    },
    Hypothesis {
        name: "query_not_encoded",
        means: "with the query as it was sent, not encoded again",
        change: ENCODE_THE_QUERY,
        told: Caller,
        test: |case, bench| {
            let mut pairs: Vec<&[u8]> = case.sent_pairs().collect();
            let sent = pairs.join(&b'&');
            pairs.sort_unstable();
            any([sent, pairs.join(&b'&')], |query| bench.query(&query))
        },
    },
    Hypothesis {
        name: "query_decoded",
        means: "with the query decoded and not encoded again",
        change: ENCODE_THE_QUERY,
        told: Caller,
        test: |case, bench| matched(bench.query(&unescape(case.lines.query, b'+').collect::<Vec<_>>())),
    },
    Hypothesis {
        name: "query_encoded_twice",
        means: "with the query encoded twice",
        change: "decode names and values before encoding them for signing",
        told: Caller,
        test: |case, bench| matched(bench.query(&replaced(case.lines.query, b"%", b"%25"))),
    },
    Hypothesis {
        name: "query_left_out",
        means: "without the query",
        change: "sign the query that is sent; parameters must be there before signing",
        told: Caller,
        test: |case, bench| {
            // Of a presigned request, without what the application asks for.
            let own = |pair: &&[u8]| case.parts.presigned.is_some() && pair.starts_with(b"X-Amz-");
            let kept: Vec<&[u8]> = case.lines.query.split(|&b| b == b'&').filter(own).collect();
            matched(bench.query(&kept.join(&b'&')))
        },
    },
    Hypothesis {
        name: "query_in_path",
        means: "with the query as a part of the path",
        change: "split the target at its first `?`: path and query are lines of their own",
        told: Caller,
        test: |case, bench| {
            let target = case.head.target().as_bytes();
            let encoded = path(target, canonical::Path::AsSent);
            any([target, &encoded], |path| {
                case.parts.presigned.is_none() && bench.lines(&Lines { path, query: b"", ..case.lines.clone() })
            })
        },
    },
    Hypothesis {
        name: "header_names_in_capitals",
        means: "with header names spelt as they were sent",
        change: WRITE_THE_HEADERS,
        told: Caller,
        test: |case, bench| {
            let mut lines = case.lines.clone();
            for field in &mut lines.fields {
                let sent = case.head.fields().find(|(name, _)| name.eq_ignore_ascii_case(field.0));
                field.0 = sent.map_or(field.0, |(name, _)| name);
            }
            matched(bench.lines(&lines))
        },
    },
    Hypothesis {
        name: "header_values_changed",
        means: "with header values in lower case, or with a space before them",
        change: WRITE_THE_HEADERS,
        told: Caller,
        test: |case, bench| {
            let spelt = |spell: fn(&[u8]) -> Vec<u8>| {
                case.lines.fields.iter().map(|(name, value)| (*name, spell(value))).collect::<Vec<_>>()
            };
            any([spelt(<[u8]>::to_ascii_lowercase), spelt(|value| [b" ", value].concat())], |fields| {
                let fields = fields.iter().map(|(name, value)| (*name, &value[..])).collect();
                bench.lines(&Lines { fields, ..case.lines.clone() })
            })
        },
    },
    Hypothesis {
        name: "header_quoted_spaces",
        means: "with runs of spaces kept between quotation marks",
        change: "fold every run of spaces in a header's value into one space, between quotation marks too",
        told: Caller,
        test: |case, bench| {
            let folded = |name: &[u8]| case.head.all(name).map(fold_unquoted).collect::<Vec<_>>().join(&b',');
            let fields: Vec<_> = case.lines.fields.iter().map(|(name, _)| (*name, folded(name))).collect();
            let fields = fields.iter().map(|(name, value)| (*name, &value[..])).collect();
            matched(bench.lines(&Lines { fields, ..case.lines.clone() }))
        },
    },
    Hypothesis {
        name: "header_values_joined_otherwise",
        means: "with the values of a repeated header joined by `, `, on lines of their own, or only the first or last",
        change: "join the values of a repeated header with `,` without a space, in the order they are sent",
        told: Caller,
        test: |case, bench| {
            let is_repeated = |name: &[u8]| case.head.all(name).nth(1).is_some();
            if !case.lines.fields.iter().any(|(name, _)| is_repeated(name)) {
                return None;
            }
            let joined: Vec<(&[u8], Vec<u8>)> = case
                .lines
                .fields
                .iter()
                .map(|(name, value)| {
                    let values: Vec<&[u8]> = case.head.all(name).collect();
                    (*name, if values.len() > 1 { values.join(&b", "[..]) } else { value.to_vec() })
                })
                .collect();
            let joined = joined.iter().map(|(name, value)| (*name, &value[..])).collect();
            let each = case
                .lines
                .fields
                .iter()
                .flat_map(|(name, value)| {
                    let (count, is_repeated) = (if is_repeated(name) { usize::MAX } else { 1 }, is_repeated(name));
                    let sent = case.head.all(name).take(count);
                    sent.map(move |sent| (*name, if is_repeated { sent } else { *value }))
                })
                .collect();
            let one = |pick: fn(&Case<'_>, &[u8]) -> usize| {
                case.lines
                    .fields
                    .iter()
                    .map(|(name, value)| match is_repeated(name) {
                        true => (*name, case.head.all(name).nth(pick(case, name)).unwrap_or_default()),
                        false => (*name, *value),
                    })
                    .collect::<Vec<_>>()
            };
            let (first, last) = (one(|_, _| 0), one(|case, name| case.head.all(name).count().saturating_sub(1)));
            any([joined, each, first, last], |fields| bench.lines(&Lines { fields, ..case.lines.clone() }))
        },
    },
    Hypothesis {
        name: "headers_unsorted",
        means: "with the signed headers in the order they were sent",
        change: WRITE_THE_HEADERS,
        told: Caller,
        test: |case, bench| {
            let mut lines = case.lines.clone();
            let sent_at = |name: &[u8]| case.head.fields().position(|(sent, _)| sent.eq_ignore_ascii_case(name));
            lines.fields.sort_by_cached_key(|(name, _)| sent_at(name));
            matched(bench.lines(&lines))
        },
    },
    Hypothesis {
        name: "empty_line_left_out",
        means: "without the empty line between the headers and their names",
        change: WRITE_THE_HEADERS,
        told: Caller,
        test: |case, bench| {
            let mut text = case.lines.write();
            // The last one: an empty query leaves such a line too.
            let at = memchr::memmem::rfind(&text, b"\n\n")?;
            text.remove(at);
            matched(bench.text(&text))
        },
    },
    Hypothesis {
        name: "header_left_out",
        means: "without one of the headers that SignedHeaders names",
        change: "sign it as it arrives, or leave it out of SignedHeaders: it was added, or changed, after signing",
        told: Caller,
        test: |case, bench| {
            let name = not_token(case).find(|name| {
                let without = case.lines.without(&[name]);
                let names: Vec<&[u8]> = case.parts.signed.names.iter().copied().filter(|known| known != name).collect();
                let list = names.join(&b';');
                bench.lines(&Lines { list: &list, ..without.clone() }) || bench.lines(&without)
            })?;
            Some(named(name))
        },
    },
    Hypothesis {
        name: "header_empty",
        means: "with no value for one of the signed headers",
        change: "sign it as it arrives, or leave it out of SignedHeaders: its value was set after signing",
        told: Caller,
        test: |case, bench| Some(named(not_token(case).find(|name| bench.field(name, b""))?)),
    },
    Hypothesis {
        name: "token_not_signed",
        means: "without the session token among the signed headers",
        change: "sign X-Amz-Security-Token, or leave it out of SignedHeaders too",
        told: Operator,
        test: |case, bench| {
            let names = case.parts.signed.names.iter().copied();
            let list = names.filter(|name| *name != TOKEN).collect::<Vec<_>>().join(&b';');
            let without = case.lines.without(&[TOKEN]);
            any([&list[..], case.lines.list], |list| bench.lines(&Lines { list, ..without.clone() }))
        },
    },
    Hypothesis {
        name: "token_signed_but_not_named",
        means: "with the session token signed, which SignedHeaders does not name",
        change: "put x-amz-security-token into SignedHeaders",
        told: Operator,
        test: |case, bench| {
            let token = case.head.all(TOKEN).next().filter(|_| case.lines.field(TOKEN).is_none())?;
            let mut lines = case.lines.clone();
            let at = lines.fields.partition_point(|(name, _)| *name < TOKEN);
            lines.fields.insert(at, (TOKEN, token));
            let list = lines.fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(&b';');
            any([&list[..], case.lines.list], |list| bench.lines(&Lines { list, ..lines.clone() }))
        },
    },
    Hypothesis {
        name: "date_of_date_header",
        means: "with the instant of `Date`, which is not that of `X-Amz-Date`",
        change: "use one instant for X-Amz-Date, the string to sign and the scope, and leave Date alone",
        told: Caller,
        test: |case, bench| {
            let date = case.head.all(b"date").next()?;
            let stamp = Stamp::parse_http(date).or_else(|| Stamp::parse_basic(date))?;
            matched(stamp != case.stamp && bench.stamp(stamp.text()))
        },
    },
    Hypothesis {
        name: "clock_read_twice",
        means: "with an instant that is seconds away from X-Amz-Date",
        change: "read the clock once, and use that instant for X-Amz-Date, the string to sign and the scope",
        told: Caller,
        test: |case, bench| shifted(case, bench, [1, -1, 2, -2]),
    },
    Hypothesis {
        name: "date_in_local_time",
        means: "with an instant that is whole hours away from X-Amz-Date",
        change: "use UTC for X-Amz-Date, the string to sign and the scope",
        told: Caller,
        test: |case, bench| shifted(case, bench, (-12..=14).filter(|hours| *hours != 0).map(|hours| hours * 3600)),
    },
    Hypothesis {
        name: "key_of_another_day",
        means: "with a signing key of the day before or after the scope's",
        change: "derive the signing key for the day of X-Amz-Date in UTC, and derive it anew each day",
        told: Caller,
        test: |case, bench| {
            let noon = case.stamp.unix_days() * 86_400 + 43_200;
            let days = [noon.checked_sub(86_400), noon.checked_add(86_400)].into_iter().flatten().map(basic);
            let (region, service) = (case.region, case.service);
            any(days, |day| with_keys(case, bench, day.get(..8).unwrap_or_default().as_bytes(), region, service))
        },
    },
    Hypothesis {
        name: "secret_without_prefix",
        means: "with a signing key derived without `AWS4` before the secret",
        change: "begin the derivation with HMAC(\"AWS4\" + secret, date)",
        told: Caller,
        test: |case, bench| {
            any(case.keys, |key| {
                let derived = bench.derive(&seed(key), case.day(), case.region, case.service);
                derived.is_some_and(|derived| bench.key(&derived))
            })
        },
    },
    Hypothesis {
        name: "region",
        means: "for another region than the scope names",
        change: "use one region for the signing key, the string to sign and the scope, and let no proxy change Authorization",
        told: Caller,
        test: |case, bench| {
            let mut regions = others(&case.rules.regions, &REGIONS, case.region);
            let found = regions.find(|region| with_keys(case, bench, case.day(), region, case.service))?;
            Some(format!(", `{found}`"))
        },
    },
    Hypothesis {
        name: "service",
        means: "for another service than the scope names",
        change: "use one service for the signing key, the string to sign and the scope, and let no proxy change Authorization",
        told: Caller,
        test: |case, bench| {
            let mut services = others(&case.rules.services, &SERVICES, case.service);
            let found = services.find(|service| with_keys(case, bench, case.day(), case.region, service))?;
            Some(format!(", `{found}`"))
        },
    },
    Hypothesis {
        name: "secret_spelt_otherwise",
        means: "with the configured secret plus or minus white space, quotes or percent escapes",
        change: "compare the secret that the signer uses with the configured one, character by character at both ends",
        told: Operator,
        test: |case, bench| {
            any(case.keys, |key| {
                spellings(key.secret().expose_secret().as_bytes()).iter().any(|secret| {
                    let derived = bench.derive(&prefixed(secret), case.day(), case.region, case.service);
                    derived.is_some_and(|derived| bench.key(&derived))
                })
            })
        },
    },
    Hypothesis {
        name: "secret_of_another_key",
        means: "with the secret of another configured key",
        change: "use the id and the secret of one key",
        told: Operator,
        test: |case, bench| {
            let key = case.other_keys().into_iter().find(|key| {
                let derived = bench.derive(&prefixed(&seed(key)), case.day(), case.region, case.service);
                derived.is_some_and(|derived| bench.key(&derived))
            })?;
            Some(format!(", `{}` of `{}`", key.id(), key.principal()))
        },
    },
];

/// Of a header's name.
const NAME_BYTES_SHOWN: usize = 64;
const TOKEN: &[u8] = b"x-amz-security-token";
/// Where most signers are, and what they fall back to.
const REGIONS: [&str; 6] = ["us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-central-1", "ap-southeast-1"];
/// What requests to a gateway are signed for by mistake.
const SERVICES: [&str; 7] = ["execute-api", "lambda", "s3", "es", "apigateway", "sts", "bedrock"];

fn matched(holds: bool) -> Option<String> {
    holds.then(String::new)
}

fn any<T>(candidates: impl IntoIterator<Item = T>, holds: impl FnMut(T) -> bool) -> Option<String> {
    matched(candidates.into_iter().any(holds))
}

/// Whether one of the id's secrets signed for this day, region and service, whatever the scope says.
fn with_keys(case: &Case<'_>, bench: &mut Bench<'_>, day: &[u8], region: &str, service: &str) -> bool {
    case.keys.iter().any(|key| {
        let derived = bench.derive(&prefixed(&seed(key)), day, region, service);
        derived.is_some_and(|derived| bench.key(&derived) || bench.key_for(&derived, &scope(day, region, service)))
    })
}

/// Whether the string to sign had an instant that many seconds away.
fn shifted(case: &Case<'_>, bench: &mut Bench<'_>, seconds: impl IntoIterator<Item = i64>) -> Option<String> {
    let shifted = |seconds: &i64| case.stamp.unix_seconds().checked_add_signed(*seconds);
    let found = seconds.into_iter().find(|by| shifted(by).is_some_and(|time| bench.stamp(basic(time).as_bytes())))?;
    Some(format!(", {found} seconds"))
}

/// Words other than the scope's, the configured ones first, each once.
fn others<'w>(configured: &'w [String], usual: &'static [&'static str], own: &'w str) -> impl Iterator<Item = &'w str> {
    let usual = usual.iter().copied().filter(move |word| !configured.iter().any(|known| known == word));
    configured.iter().map(String::as_str).chain(usual).filter(move |word| *word != own)
}

/// Ways in which a secret goes wrong between where it was issued and where it is used.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let joined = |parts: &[&[u8]]| parts.concat();
    let trimmed = secret.trim_ascii();
    let unquoted = trimmed.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(trimmed);
    let mut encoded = Vec::new();
    write_query(&replaced(secret, b"+", b"%2B"), canonical::Query::ByEncoded, &mut encoded);
    let encoded = encoded.strip_suffix(b"=").unwrap_or(&encoded).to_vec();
    let mut found = vec![
        trimmed.to_vec(),
        unquoted.to_vec(),
        joined(&[secret, b"\n"]),
        joined(&[secret, b"\r\n"]),
        joined(&[secret, b" "]),
        joined(&[b" ", secret]),
        joined(&[b"\"", secret, b"\""]),
        encoded,
    ];
    if escapes_are_valid(secret) {
        found.push(unescape(secret, b'+').collect());
    }
    found.retain(|spelling| spelling != secret);
    found.dedup();
    found
}

/// The signed headers that may be told about; whether the token was signed is not for callers.
fn not_token<'c>(case: &'c Case<'_>) -> impl Iterator<Item = &'c [u8]> {
    let names = case.lines.fields.iter().map(|(name, _)| *name);
    names.filter(|name| *name != TOKEN && *name != b"host").take(FIELDS_TRIED_MAX)
}

fn named(name: &[u8]) -> String {
    match name.get(..NAME_BYTES_SHOWN) {
        Some(beginning) => format!(", `{}…`", String::from_utf8_lossy(beginning)),
        None => format!(", `{}`", String::from_utf8_lossy(name)),
    }
}

fn path(sent: &[u8], form: canonical::Path) -> Vec<u8> {
    let mut out = Vec::with_capacity(sent.len() + 16);
    write_path(sent, form, &mut out);
    out
}

fn query(sent: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(sent.len() + 16);
    write_query(sent, canonical::Query::ByEncoded, &mut out);
    out
}

/// A header's value as early versions of the specification had it.
fn fold_unquoted(value: &[u8]) -> Vec<u8> {
    let (mut quoted, mut out) = (false, Vec::with_capacity(value.len()));
    for &byte in value {
        quoted ^= byte == b'"';
        if quoted || byte != b' ' || out.last() != Some(&b' ') {
            out.push(byte);
        }
    }
    out
}

fn until(text: &[u8], end: u8) -> &[u8] {
    text.split(|&b| b == end).next().unwrap_or_default()
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        let (before, behind) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        out.extend_from_slice(to);
        rest = behind.get(from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

fn lower_escapes(text: &[u8]) -> Vec<u8> {
    let mut digits = 0;
    let lower = |&byte: &u8| {
        let in_escape = digits > 0;
        digits = if byte == b'%' { 2 } else { u8::saturating_sub(digits, 1) };
        if in_escape { byte.to_ascii_lowercase() } else { byte }
    };
    text.iter().map(lower).collect()
}

fn without_port(host: &[u8]) -> &[u8] {
    let colon = host.iter().rposition(|&b| b == b':').filter(|at| host.get(*at..).is_some_and(|p| !p.contains(&b']')));
    colon.and_then(|at| host.get(..at)).unwrap_or(host)
}

fn with_port(name: &[u8], port: &[u8]) -> Vec<u8> {
    if port.is_empty() { name.to_vec() } else { [name, b":", port].concat() }
}

/// `host` of the first element of `Forwarded` (RFC 7239).
fn forwarded_host(value: &[u8]) -> Option<&[u8]> {
    let mut pairs = until(value, b',').split(|&b| b == b';').map(<[u8]>::trim_ascii);
    let host = pairs.find_map(|pair| pair.get(..5)?.eq_ignore_ascii_case(b"host=").then(|| pair.get(5..))?)?;
    Some(host.strip_prefix(b"\"").and_then(|host| host.strip_suffix(b"\"")).unwrap_or(host))
}
