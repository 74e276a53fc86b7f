//! How connections are secured.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::bail;
use serde::Deserialize;

/// A certificate and its key, as files that are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead to it, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// What one source says about it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct TlsSettings {
    /// The certificate, and those that lead to it, as PEM.
    pub tls_certificate_file: Option<PathBuf>,
    /// Its private key, as PEM.
    pub tls_key_file: Option<PathBuf>,
    /// Serve without TLS on an address that is not of this machine alone: something in front of it adds TLS.
    pub insecure_plaintext: Option<bool>,
}

impl TlsSettings {
    /// These settings, and those of `next` where these say nothing.
    pub fn or(self, next: Self) -> Self {
        Self {
            tls_certificate_file: self.tls_certificate_file.or(next.tls_certificate_file),
            tls_key_file: self.tls_key_file.or(next.tls_key_file),
            insecure_plaintext: self.insecure_plaintext.or(next.insecure_plaintext),
        }
    }

    /// Checks them for a server that listens there.
    pub fn files(&self, listen: SocketAddr) -> anyhow::Result<Option<TlsFiles>> {
        match (&self.tls_certificate_file, &self.tls_key_file) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate: certificate.clone(), key: key.clone() })),
            (Some(_), None) | (None, Some(_)) => bail!("tls_certificate_file and tls_key_file are given together"),
            (None, None) if listen.ip().is_loopback() || self.insecure_plaintext == Some(true) => Ok(None),
            (None, None) => bail!(
                "listen = {listen}: keys and tokens would travel in clear text; set tls_certificate_file and \
                 tls_key_file, or insecure_plaintext = true (--insecure-plaintext) if something in front adds TLS"
            ),
        }
    }
}
