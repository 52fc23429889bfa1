//! Whose address a request is counted under.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::request::head::Head;

/// The client's address: the peer's, or what trusted proxies say in `X-Forwarded-For`.
///
/// The list is walked from the right, each hop being believed only if the one that told it is trusted
/// (design of nginx's `real_ip_recursive`); the first address that is not a trusted proxy is the client.
/// An entry that is no address ends the walk: the proxy that reported it counts as the client.
pub fn address(peer: IpAddr, head: &Head, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if trusted.is_empty() || !is_trusted(&client) {
        return client;
    }
    let fields: Vec<&[u8]> = head.all(b"x-forwarded-for").collect();
    for hop in fields.iter().rev().flat_map(|field| field.rsplit(|&b| b == b',')) {
        match entry(hop) {
            Some(ip) => client = ip,
            None => break,
        }
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`.
fn entry(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip())).ok()?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let lines: String = forwarded.iter().map(|f| format!("X-Forwarded-For: {f}\r\n")).collect();
        let head = Head::parse(Bytes::from(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))).expect("head");
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().expect("net")).collect();
        address(peer.parse().expect("ip"), &head, &trusted).to_string()
    }

    #[test]
    fn strangers_cannot_name_themselves() {
        assert_eq!(client("9.9.9.9", &["1.1.1.1"], &[]), "9.9.9.9");
        assert_eq!(client("9.9.9.9", &["1.1.1.1"], &["10.0.0.0/8"]), "9.9.9.9");
    }

    #[test]
    fn trusted_hops_are_peeled_from_the_right() {
        let ours = &["10.0.0.0/8", "fd00::/8"];
        assert_eq!(client("10.0.0.1", &["1.1.1.1"], ours), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.7"], ours), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["6.6.6.6", "1.1.1.1", "10.0.0.7"], ours), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.9"], ours), "10.0.0.9");
        assert_eq!(client("::ffff:10.0.0.1", &["1.1.1.1:4711"], ours), "1.1.1.1");
        assert_eq!(client("fd00::1", &["[2001:db8::1]:80"], ours), "2001:db8::1");
    }

    #[test]
    fn nonsense_ends_the_walk() {
        assert_eq!(client("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.7"], &["10.0.0.0/8"]), "10.0.0.7");
        assert_eq!(client("10.0.0.1", &[""], &["10.0.0.0/8"]), "10.0.0.1");
    }
}
