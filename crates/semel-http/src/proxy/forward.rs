//! What a request looks like on its way to the upstream.

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri, Version};

use super::client::Client;
use super::framing::Framing;
use super::settings::{Forwarding, Settings, Target};
use crate::answer::{Problem, Refusal};
use crate::hop;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Refuses a request that the next server could read differently.
pub(super) fn check_framing<B>(request: &Request<B>, framing: Framing) -> Result<(), Problem> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    let problem = |detail: &'static str| Err(Problem::new(Refusal::BadFraming, detail));
    if framing == Framing::Ambiguous {
        return problem("the length of the body is said more than once");
    }
    let Some(coding) = request.headers().get(header::TRANSFER_ENCODING) else { return Ok(()) };
    if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
        return problem("the only transfer coding that is understood is `chunked`");
    }
    if framing == Framing::Unseen {
        return problem(
            "a chunked request must not be sent before the answer to the one before it",
        );
    }
    Ok(())
}

/// Makes the request one for the upstream: its target in origin form, exactly one `Host`, nothing
/// that belongs to the client's connection, and the fields that tell about the client.
pub(super) fn prepare<B>(
    request: &mut Request<B>,
    client: &Client,
    settings: &Settings,
    target: &Target,
) -> Result<(), Problem> {
    if *request.method() == Method::CONNECT {
        return Err(Problem::new(Refusal::MethodUnsupported, "CONNECT is not forwarded"));
    }
    // First, because `Connection` may name any field, `Host` among them.
    hop::strip(request.headers_mut());
    set_host(request, target)?;
    let headers = request.headers_mut();
    // Answered already: the body is read here.
    headers.remove(header::EXPECT);
    tell_about(client, settings, headers);
    if request.version() == Version::HTTP_2 {
        join_cookies(request.headers_mut());
    }
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

fn set_host<B>(request: &mut Request<B>, target: &Target) -> Result<(), Problem> {
    let hosts = request.headers().get_all(header::HOST).iter().take(2).count();
    if hosts > 1 {
        return Err(Problem::new(Refusal::BadTarget, "the request has two `Host` fields"));
    }
    let Some(authority) = request.uri().authority() else {
        if hosts == 0 && request.version() == Version::HTTP_11 {
            return Err(Problem::new(Refusal::BadTarget, "the request has no `Host` field"));
        }
        if hosts == 0 {
            request.headers_mut().insert(header::HOST, target.authority.clone());
        }
        return Ok(());
    };
    // HTTP/2, or the absolute form: the target's own authority counts (RFC 9112 §3.2.2).
    let without_user = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host = HeaderValue::from_str(without_user);
    let host =
        host.map_err(|_| Problem::new(Refusal::BadTarget, "the target has no valid host"))?;
    request.headers_mut().insert(header::HOST, host);
    let path = request.uri().path_and_query().cloned();
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    Ok(())
}

fn tell_about(client: &Client, settings: &Settings, headers: &mut HeaderMap) {
    let trusted = settings.trust_forwarded;
    let (x, rfc) = match settings.forwarding {
        Forwarding::Both => (true, true),
        Forwarding::Forwarded => (false, true),
        Forwarding::Off => (false, false),
        Forwarding::XForwarded => (true, false),
    };
    // What is not written here must not come from the client either, unless it is trusted.
    set(headers, &X_FORWARDED_FOR, x.then_some(&client.address), trusted);
    set(headers, &header::FORWARDED, rfc.then_some(&client.forwarded), trusted);
    let host = headers.get(header::HOST).cloned();
    let keep = |headers: &HeaderMap, name: &HeaderName| trusted && headers.contains_key(name);
    if !keep(headers, &X_FORWARDED_HOST) {
        replace(headers, X_FORWARDED_HOST, host.filter(|_| x));
    }
    if !keep(headers, &X_FORWARDED_PROTO) {
        replace(headers, X_FORWARDED_PROTO, x.then(|| HeaderValue::from_static("http")));
    }
}

fn replace(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => drop(headers.insert(name, value)),
        None => drop(headers.remove(name)),
    }
}

/// Sets a list field, behind what trusted proxies wrote into it.
fn set(headers: &mut HeaderMap, name: &HeaderName, value: Option<&HeaderValue>, trusted: bool) {
    if !trusted || !headers.contains_key(name) {
        return replace(headers, name.clone(), value.cloned());
    }
    let Some(value) = value else { return };
    let mut list = Vec::new();
    for part in headers.get_all(name).iter().chain([value]) {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(part.as_bytes());
    }
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name.clone(), list);
    }
}

/// HTTP/2 may split cookies over fields; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<_> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(request: Request<()>, settings: &Settings) -> Result<Request<()>, Problem> {
        let target = Settings::new("http://app:8000").validate().unwrap();
        let client = Client::new("192.0.2.7:4711".parse().unwrap());
        let mut request = request;
        prepare(&mut request, &client, settings, &target).map(|()| request)
    }

    fn request(uri: &str, fields: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn the_host_is_kept_and_the_client_is_told() {
        let asked = request(
            "/a?b=c",
            &[
                ("host", "shop.example"),
                ("traceparent", "00-1"),
                ("x-forwarded-for", "spoofed"),
                ("x-forwarded-proto", "spoofed"),
                ("forwarded", "for=spoofed"),
                ("connection", "keep-alive, x-hop"),
                ("x-hop", "1"),
                ("te", "trailers"),
                ("expect", "100-continue"),
            ],
        );
        let sent = prepared(asked, &Settings::new("http://app:8000")).unwrap();
        assert_eq!(sent.uri(), "/a?b=c");
        let mut fields: Vec<_> = sent
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        assert_eq!(
            fields,
            [
                "host: shop.example",
                "traceparent: 00-1",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn trusted_fields_are_kept_and_appended_to() {
        let mut settings = Settings::new("http://app:8000");
        settings.trust_forwarded = true;
        settings.forwarding = Forwarding::Both;
        let fields = [
            ("host", "h"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=198.51.100.1;proto=https"),
        ];
        let sent = prepared(request("/", &fields), &settings).unwrap();
        assert_eq!(sent.headers()["x-forwarded-for"], "198.51.100.1, 192.0.2.7");
        assert_eq!(sent.headers()["x-forwarded-proto"], "https");
        assert_eq!(
            sent.headers()["forwarded"],
            "for=198.51.100.1;proto=https, for=192.0.2.7;proto=http"
        );
    }

    #[test]
    fn the_absolute_form_decides_about_the_host() {
        let asked = request("http://real.example:81/a?b", &[("host", "other")]);
        let sent = prepared(asked, &Settings::new("http://app")).unwrap();
        assert_eq!(sent.headers()["host"], "real.example:81");
        assert_eq!(sent.uri(), "/a?b");
        let asked = request("http://real.example", &[]);
        assert_eq!(prepared(asked, &Settings::new("http://app")).unwrap().uri(), "/");
    }

    #[test]
    fn a_target_that_is_missing_or_ambiguous_is_refused() {
        let settings = Settings::new("http://app");
        let refusal = |asked| prepared(asked, &settings).unwrap_err().refusal();
        assert_eq!(refusal(request("/", &[])), Refusal::BadTarget);
        assert_eq!(refusal(request("/", &[("host", "a"), ("host", "a")])), Refusal::BadTarget);
        let mut connect = request("h:1", &[("host", "h:1")]);
        *connect.method_mut() = Method::CONNECT;
        assert_eq!(refusal(connect), Refusal::MethodUnsupported);
    }

    #[test]
    fn cookies_of_http_2_are_joined() {
        let mut asked = request("http://h/", &[("cookie", "a=1"), ("cookie", "b=2")]);
        *asked.version_mut() = Version::HTTP_2;
        let sent = prepared(asked, &Settings::new("http://app")).unwrap();
        assert_eq!(sent.headers()["cookie"], "a=1; b=2");
        assert_eq!(sent.headers().get_all("cookie").iter().count(), 1);
    }

    #[test]
    fn codings_other_than_chunked_and_unseen_chunked_heads_are_refused() {
        let chunked = request("/", &[("transfer-encoding", "Chunked")]);
        assert!(check_framing(&chunked, Framing::Clear).is_ok());
        assert!(check_framing(&chunked, Framing::Unseen).is_err());
        assert!(check_framing(&chunked, Framing::Ambiguous).is_err());
        let gzip = request("/", &[("transfer-encoding", "gzip, chunked")]);
        assert!(check_framing(&gzip, Framing::Clear).is_err());
        assert!(check_framing(&request("/", &[]), Framing::Unseen).is_ok());
    }
}
