//! The certificate that connections are secured with, read again when its files change. New connections get the new one,
//! open ones keep theirs. Files that do not fit together, as in the middle of a change, leave the last good one in place.
//!
//! The files are looked at from time to time rather than watched: where secrets are mounted, a change swaps a link in the
//! path of the file, which a watch of the file does not see.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::Context as _;
use tokio_rustls::rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_util::sync::CancellationToken;

use crate::config::TlsFiles;

/// Between two looks at the files.
const PERIOD: Duration = Duration::from_secs(5);

/// HTTP/2, which is all that gRPC speaks.
const PROTOCOL: &[u8] = b"h2";

/// A certificate with its key. Cheap to clone.
#[derive(Clone)]
pub(super) struct Certificate {
    files: TlsFiles,
    current: Arc<RwLock<Read>>,
}

/// What was read, and what it came to.
struct Read {
    text: (Vec<u8>, Vec<u8>),
    config: Arc<ServerConfig>,
}

impl Certificate {
    /// Reads the files.
    pub(super) fn load(files: TlsFiles) -> anyhow::Result<Self> {
        let text = texts(&files)?;
        let config = config(&text).with_context(|| named(&files))?;
        Ok(Self { files, current: Arc::new(RwLock::new(Read { text, config })) })
    }

    /// As it is now.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        // A panic while it was held left nothing half-done.
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Looks at the files again and again.
    pub(super) async fn keep_fresh(self, stop: CancellationToken) {
        let mut was_well = true;
        while tokio::time::timeout(PERIOD, stop.cancelled()).await.is_err() {
            let looked = self.look();
            match &looked {
                Ok(true) => tracing::info!(files = named(&self.files), "the certificate was read anew"),
                Err(cause) if was_well => {
                    let cause = format!("{cause:#}");
                    tracing::warn!(cause, "the certificate cannot be read anew; the last one is kept");
                }
                Ok(false) | Err(_) => {}
            }
            was_well = looked.is_ok();
        }
    }

    fn look(&self) -> anyhow::Result<bool> {
        let text = texts(&self.files)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).text == text {
            return Ok(false);
        }
        let config = config(&text).with_context(|| named(&self.files))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Read { text, config };
        Ok(true)
    }
}

fn named(files: &TlsFiles) -> String {
    format!("{} with {}", files.certificate.display(), files.key.display())
}

fn texts(files: &TlsFiles) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    Ok((read(&files.certificate)?, read(&files.key)?))
}

fn config((certificate, key): &(Vec<u8>, Vec<u8>)) -> anyhow::Result<Arc<ServerConfig>> {
    let chain =
        CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().context("the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("the private key")?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}
