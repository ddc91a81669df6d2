//! Every refusal of the door, declared once: the one table, and how a row becomes a response.
//!
//! A refusal is an RFC 9457 problem. Its `type` leads to a page of `docs/problems`, which the
//! layer serves itself, so that the link works on a machine without internet. The typed
//! [`Refusal`] is put into the response's extensions for layers outside of this one.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderValue, LINK, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use serde::Serialize;

use crate::body::Body;

/// Where problem pages are served, and what the `type` of a problem starts with by default.
pub const PROBLEMS_PATH: &str = "/.well-known/semel/problems/";

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident {
        slug: $slug:literal,
        status: $status:ident,
        title: $title:literal,
        retry_after: $retry_after:literal,
        effect: $effect:ident,
    })*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// Every row of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            fn row(self) -> &'static Row {
                match self {
                    $(Self::$name => &Row {
                        slug: $slug,
                        status: StatusCode::$status,
                        title: $title,
                        retry_after: $retry_after,
                        effect: KnownEffect::$effect,
                        page: include_str!(concat!("../../../docs/problems/", $slug, ".md")),
                    },)*
                }
            }
        }
    };
}

struct Row {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
    /// Whether trying the same request again makes sense; only then there is a `Retry-After`.
    retry_after: bool,
    effect: KnownEffect,
    page: &'static str,
}

/// What a refusal says about the effect of the request that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownEffect {
    /// This request caused nothing.
    Nothing,
    /// It may have.
    Unknown,
}

table! {
    /// The request has no key and the route demands one.
    KeyMissing {
        slug: "key-missing",
        status: BAD_REQUEST,
        title: "Idempotency-Key is missing",
        retry_after: false,
        effect: Nothing,
    }
    /// The key breaks the rules of keys.
    KeyMalformed {
        slug: "key-malformed",
        status: BAD_REQUEST,
        title: "Idempotency-Key is malformed",
        retry_after: false,
        effect: Nothing,
    }
    /// The request does not tell whose key it is.
    TenantMissing {
        slug: "tenant-missing",
        status: BAD_REQUEST,
        title: "The request does not say whose Idempotency-Key it is",
        retry_after: false,
        effect: Nothing,
    }
    /// The key was used with another payload or on another path.
    KeyReused {
        slug: "key-reused",
        status: UNPROCESSABLE_ENTITY,
        title: "Idempotency-Key is already used",
        retry_after: false,
        effect: Nothing,
    }
    /// Another request with this key is being executed.
    InFlight {
        slug: "in-flight",
        status: CONFLICT,
        title: "A request is outstanding for this Idempotency-Key",
        retry_after: true,
        effect: Nothing,
    }
    /// An execution under this key ended without telling what happened.
    OutcomeUnknown {
        slug: "outcome-unknown",
        status: CONFLICT,
        title: "The outcome of an earlier request with this Idempotency-Key is unknown",
        retry_after: false,
        effect: Unknown,
    }
    /// The operation finished, but its answer was too large to be kept.
    AnswerNotKept {
        slug: "answer-not-kept",
        status: CONFLICT,
        title: "The operation finished before and its answer was not kept",
        retry_after: false,
        effect: Nothing,
    }
    /// The key says that it is older than records are kept.
    KeyTooOld {
        slug: "key-too-old",
        status: PRECONDITION_FAILED,
        title: "Idempotency-Key is older than records are kept",
        retry_after: false,
        effect: Nothing,
    }
    /// The body of the keyed request is over the limit.
    BodyTooLarge {
        slug: "body-too-large",
        status: PAYLOAD_TOO_LARGE,
        title: "The body is too large for a request with an Idempotency-Key",
        retry_after: false,
        effect: Nothing,
    }
    /// The body of the keyed request did not arrive whole.
    BodyIncomplete {
        slug: "body-incomplete",
        status: BAD_REQUEST,
        title: "The body did not arrive whole",
        retry_after: false,
        effect: Nothing,
    }
    /// The body came too slowly.
    BodyTimeout {
        slug: "body-timeout",
        status: REQUEST_TIMEOUT,
        title: "The body did not arrive in time",
        retry_after: false,
        effect: Nothing,
    }
    /// The store could not be asked, so nothing was executed.
    StoreUnavailable {
        slug: "store-unavailable",
        status: SERVICE_UNAVAILABLE,
        title: "The store of idempotency records cannot be reached",
        retry_after: true,
        effect: Nothing,
    }
    /// The record of this key is damaged or of a newer version.
    RecordUnreadable {
        slug: "record-unreadable",
        status: INTERNAL_SERVER_ERROR,
        title: "The record of this Idempotency-Key cannot be read",
        retry_after: false,
        effect: Nothing,
    }
    /// Too many requests are being executed.
    Overloaded {
        slug: "overloaded",
        status: SERVICE_UNAVAILABLE,
        title: "Too many requests are in flight",
        retry_after: true,
        effect: Nothing,
    }
    /// The answer of the service broke off while it was read.
    AnswerBroken {
        slug: "answer-broken",
        status: BAD_GATEWAY,
        title: "The answer broke off",
        retry_after: false,
        effect: Unknown,
    }
    /// The upstream took no connection; nothing was sent.
    UpstreamUnreachable {
        slug: "upstream-unreachable",
        status: BAD_GATEWAY,
        title: "The upstream cannot be reached",
        retry_after: false,
        effect: Nothing,
    }
    /// The connection to the upstream was lost after the request was sent.
    UpstreamLost {
        slug: "upstream-lost",
        status: BAD_GATEWAY,
        title: "The connection to the upstream was lost before it answered",
        retry_after: false,
        effect: Unknown,
    }
    /// The upstream did not answer in time.
    UpstreamTimeout {
        slug: "upstream-timeout",
        status: GATEWAY_TIMEOUT,
        title: "The upstream did not answer in time",
        retry_after: false,
        effect: Unknown,
    }
    /// The request can be read in two ways.
    BadFraming {
        slug: "bad-framing",
        status: BAD_REQUEST,
        title: "The request's length is ambiguous",
        retry_after: false,
        effect: Nothing,
    }
    /// The request does not say, or says twice, which host it is for.
    BadTarget {
        slug: "bad-target",
        status: BAD_REQUEST,
        title: "The request's target is missing or ambiguous",
        retry_after: false,
        effect: Nothing,
    }
    /// The proxy does not forward this method.
    MethodUnsupported {
        slug: "method-unsupported",
        status: NOT_IMPLEMENTED,
        title: "The method is not supported",
        retry_after: false,
        effect: Nothing,
    }
}

impl Refusal {
    /// The last part of the problem's `type`, stable for programs and metrics.
    #[must_use]
    pub fn slug(self) -> &'static str {
        self.row().slug
    }

    /// The status of the response.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// The `title` of the problem.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// Whether the response carries a `Retry-After`.
    #[must_use]
    pub fn has_retry_after(self) -> bool {
        self.row().retry_after
    }

    /// The page that explains the refusal, as Markdown.
    #[must_use]
    pub fn page(self) -> &'static str {
        self.row().page
    }

    pub(crate) fn known_effect(self) -> KnownEffect {
        self.row().effect
    }
}

/// A refusal with what is known about this one case.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    refusal: Refusal,
    detail: Cow<'static, str>,
    retry_after: Duration,
    original_status: Option<StatusCode>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_status: Option<u16>,
}

impl Problem {
    pub(crate) fn new(refusal: Refusal, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = Duration::from_secs(1);
        Self { refusal, detail: detail.into(), retry_after, original_status: None }
    }

    pub(crate) fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait.unwrap_or(self.retry_after);
        self
    }

    pub(crate) fn original_status(mut self, status: StatusCode) -> Self {
        self.original_status = Some(status);
        self
    }

    pub(crate) fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// The response. `base` is what the `type` starts with.
    pub(crate) fn response(&self, base: &str) -> Response<Body> {
        let row = self.refusal.row();
        let link = format!("{base}{}", row.slug);
        let document = Document {
            r#type: &link,
            title: row.title,
            status: row.status.as_u16(),
            detail: &self.detail,
            original_status: self.original_status.map(|status| status.as_u16()),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = row.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(link) = HeaderValue::try_from(format!("<{link}>; rel=\"describedby\"")) {
            headers.insert(LINK, link);
        }
        if row.retry_after {
            // Rounded up: a client that comes back too early only gets the same answer again.
            let seconds = self.retry_after.as_millis().div_ceil(1000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(seconds).unwrap_or(1)));
        }
        response.extensions_mut().insert(self.refusal);
        response
    }
}

/// The problem page that a request asks for. Anything else is not ours.
pub(crate) fn page<B>(request: &Request<B>, base: &str) -> Option<Response<Body>> {
    let slug = request.uri().path().strip_prefix(base)?;
    let refusal = Refusal::ALL.iter().find(|refusal| refusal.slug() == slug)?;
    let with_body = match *request.method() {
        Method::GET => true,
        Method::HEAD => false,
        _ => return None,
    };
    let mut response = Response::new(if with_body { refusal.page().into() } else { Body::empty() });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(refusal.page().len()));
    Some(response)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn slugs_are_unique_and_every_page_names_its_title() {
        for (at, refusal) in Refusal::ALL.iter().enumerate() {
            let page = refusal.page();
            assert!(page.starts_with(&format!("# {}\n", refusal.title())), "{}", refusal.slug());
            for part in ["## What happened", "## What the client", "## What the operator"] {
                assert!(page.contains(part), "{} lacks `{part}`", refusal.slug());
            }
            let status = format!("`{}`", refusal.status().as_u16());
            assert!(page.contains(&status), "{} lacks its status", refusal.slug());
            assert!(!Refusal::ALL[..at].iter().any(|other| other.slug() == refusal.slug()));
        }
    }

    #[tokio::test]
    async fn a_problem_has_all_members_and_headers() {
        let problem = Problem::new(Refusal::InFlight, "wait a \"moment\"")
            .retry_after(Some(Duration::from_millis(1500)));
        let response = problem.response(PROBLEMS_PATH);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(
            response.headers()["link"],
            "</.well-known/semel/problems/in-flight>; rel=\"describedby\""
        );
        assert_eq!(response.extensions().get(), Some(&Refusal::InFlight));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            "{\"type\":\"/.well-known/semel/problems/in-flight\",\"title\":\"A request is \
             outstanding for this Idempotency-Key\",\"status\":409,\"detail\":\"wait a \
             \\\"moment\\\"\"}"
        );
    }

    #[test]
    fn an_unknown_page_and_another_method_are_not_ours() {
        let ask = |method: Method, path: &str| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse().unwrap();
            page(&request, PROBLEMS_PATH).is_some()
        };
        assert!(ask(Method::GET, "/.well-known/semel/problems/in-flight"));
        assert!(ask(Method::HEAD, "/.well-known/semel/problems/in-flight"));
        assert!(!ask(Method::POST, "/.well-known/semel/problems/in-flight"));
        assert!(!ask(Method::GET, "/.well-known/semel/problems/nothing"));
        assert!(!ask(Method::GET, "/orders"));
    }
}
