//! A certificate authority for one server.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::Error;
use super::nest::Nest;

/// Files of a server that proves to be `localhost` and 127.0.0.1.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// The authority's certificate: what a client has to trust.
    pub(super) root: PathBuf,
    pub(super) certificate: PathBuf,
    /// Everybody's to read until its owner is known.
    pub(super) key: PathBuf,
}

impl Tls {
    /// Makes an authority that signs this one certificate and is then forgotten.
    pub(super) fn new(nest: &Nest) -> Result<Self, Error> {
        let at = || Error::of::<rcgen::Error>("the certificate cannot be made");
        let mut root = CertificateParams::new([]).map_err(at())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, "semel's test authority");
        let root_key = KeyPair::generate().map_err(at())?;
        let own = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut own = CertificateParams::new(own).map_err(at())?;
        own.distinguished_name.push(DnType::CommonName, "localhost");
        let own_key = KeyPair::generate().map_err(at())?;
        let signed = own.signed_by(&own_key, &Issuer::from_params(&root, &root_key));
        let root = root.self_signed(&root_key).map_err(at())?;
        Ok(Self {
            root: nest.file("root.crt", &root.pem())?,
            certificate: nest.file("server.crt", &signed.map_err(at())?.pem())?,
            key: nest.file("server.key", &own_key.serialize_pem())?,
        })
    }
}

/// A path as a setting's value.
pub(super) fn value(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
