//! Fields that belong to one connection (RFC 9110 §7.6.1) and so are neither stored nor forwarded.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether the field belongs to the connection: by its name, or because `Connection` names it.
pub(crate) fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    let always =
        [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
    always.contains(name)
        || named_in_connection(headers).any(|named| named.eq_ignore_ascii_case(name.as_str()))
}

/// Removes every field that belongs to the connection. `Proxy-Authorization` goes as well: it is
/// for the proxy, not for what is behind it.
#[cfg_attr(not(feature = "proxy"), expect(dead_code, reason = "only the proxy forwards"))]
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            named_in_connection(headers).filter_map(|name| name.parse().ok()).collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    let others = [
        KEEP_ALIVE,
        PROXY_AUTHORIZATION,
        PROXY_CONNECTION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    for name in others {
        headers.remove(name);
    }
}

fn named_in_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_message_s_own_fields_are_left() {
        let mut headers = HeaderMap::new();
        let fields = [
            ("connection", "close, X-Mine"),
            ("connection", "x-other,not a name,"),
            ("x-mine", "1"),
            ("x-other", "1"),
            ("keep-alive", "1"),
            ("proxy-authorization", "1"),
            ("proxy-connection", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("traceparent", "00-1"),
            ("host", "h"),
        ];
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["traceparent", "host"]);
    }
}
