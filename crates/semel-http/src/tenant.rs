//! Whose key it is.

use http::header::{AUTHORIZATION, HeaderName};
use http::request::Parts;
use semel::{Error, ErrorKind, FingerprintKey, Tenant};

/// Tells whose key a request carries. Another tenant's key is indistinguishable from an unused
/// one, so a wrong answer here hands one customer's responses to another.
///
/// Every `Fn(&Parts) -> Result<Tenant, Error>` is one:
///
/// ```
/// use http::request::Parts;
/// use semel::{Error, ErrorKind, Tenant};
/// use semel_http::TenantOf;
///
/// #[derive(Clone)]
/// struct Account(u64); // put there by the authentication layer outside of this one
///
/// fn tenant(parts: &Parts) -> Result<Tenant, Error> {
///     let account = parts.extensions.get::<Account>();
///     let account = account.ok_or_else(|| Error::new(ErrorKind::Invalid, "not signed in"))?;
///     Tenant::new(&account.0.to_string())
/// }
///
/// let (mut parts, ()) = http::Request::new(()).into_parts();
/// assert!(tenant.tenant_of(&parts).is_err());
/// parts.extensions.insert(Account(7));
/// assert_eq!(tenant.tenant_of(&parts)?.as_str(), "7");
/// # Ok::<(), Error>(())
/// ```
pub trait TenantOf: Send + Sync {
    /// The tenant of this request.
    ///
    /// # Errors
    /// The request does not tell; it is refused with `tenant-missing` and the error's message.
    fn tenant_of(&self, request: &Parts) -> Result<Tenant, Error>;
}

impl<F: Fn(&Parts) -> Result<Tenant, Error> + Send + Sync> TenantOf for F {
    fn tenant_of(&self, request: &Parts) -> Result<Tenant, Error> {
        self(request)
    }
}

/// The tenant is a keyed hash of the `Authorization` field, so the credential itself is not kept.
/// Requests without one share a tenant of their own.
///
/// A caller whose credential changes between two tries is another tenant for the second one. Where
/// tokens are short-lived, take the account from whatever checks the token instead.
#[derive(Clone, Debug)]
pub(crate) struct FromAuthorization(pub(crate) FingerprintKey);

impl TenantOf for FromAuthorization {
    fn tenant_of(&self, request: &Parts) -> Result<Tenant, Error> {
        let mut credentials = request.headers.get_all(AUTHORIZATION).iter().peekable();
        if credentials.peek().is_none() {
            return Tenant::new("anonymous");
        }
        let mut hash = self.0.fingerprint().part(b"tenant of authorization");
        for credential in credentials {
            hash = hash.part(credential.as_bytes());
        }
        let hash = hash.finish();
        let mut text = String::with_capacity(32);
        for byte in &hash.as_bytes()[..16] {
            for digit in [byte >> 4, byte & 0x0f] {
                text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        Tenant::new(&text)
    }
}

/// The tenant is the value of a field that something trusted sets.
#[derive(Clone, Debug)]
pub(crate) struct FromHeader(pub(crate) HeaderName);

impl TenantOf for FromHeader {
    fn tenant_of(&self, request: &Parts) -> Result<Tenant, Error> {
        let name = &self.0;
        let mut values = request.headers.get_all(name).iter();
        let problem = match (values.next(), values.next()) {
            (None, _) => format!("the field `{name}` that names the tenant is missing"),
            (Some(_), Some(_)) => format!("the field `{name}` that names the tenant is sent twice"),
            (Some(value), None) => match value.to_str() {
                Ok(text) => return Tenant::new(text),
                Err(_) => format!("the field `{name}` that names the tenant is not ASCII"),
            },
        };
        Err(Error::new(ErrorKind::Invalid, problem))
    }
}

/// All callers are one principal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Single;

impl TenantOf for Single {
    fn tenant_of(&self, _request: &Parts) -> Result<Tenant, Error> {
        Ok(Tenant::single())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn request(fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request.into_parts().0
    }

    #[test]
    fn a_credential_names_a_tenant_that_does_not_show_it() {
        let of = |secret: &[u8], fields: &[(&'static str, &'static str)]| {
            let secret = FingerprintKey::from_secret(secret).unwrap();
            FromAuthorization(secret).tenant_of(&request(fields)).unwrap()
        };
        let secret = b"0123456789abcdef";
        let alice = of(secret, &[("authorization", "Bearer alice")]);
        assert_eq!(alice, of(secret, &[("authorization", "Bearer alice")]));
        assert_ne!(alice, of(secret, &[("authorization", "Bearer bob")]));
        assert_ne!(alice, of(secret, &[]));
        assert_ne!(alice, of(b"fedcba9876543210", &[("authorization", "Bearer alice")]));
        assert!(alice.as_str().len() == 32 && !alice.as_str().contains("alice"));
        let twice = [("authorization", "Bearer alice"), ("authorization", "Bearer bob")];
        assert_ne!(alice, of(secret, &twice));
    }

    #[test]
    fn a_field_that_is_missing_or_ambiguous_names_no_tenant() {
        let of = FromHeader(HeaderName::from_static("x-account"));
        assert_eq!(of.tenant_of(&request(&[("x-account", "7")])).unwrap().as_str(), "7");
        for fields in [&[][..], &[("x-account", "7"), ("x-account", "8")], &[("x-account", "")]] {
            assert!(of.tenant_of(&request(fields)).is_err(), "{fields:?}");
        }
    }
}
