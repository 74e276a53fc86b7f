//! Fetches a key set: one GET over HTTPS, bounded in time and size. Redirects are not followed, nothing is kept open.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};

use crate::shutdown;

/// The whole of it takes no longer.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;

/// Refuses an address that cannot be fetched, or not without others being able to change what comes.
pub fn check(url: &str) -> anyhow::Result<()> {
    parse(url).map(|_| ())
}

/// Fetches a text.
pub async fn fetch(url: &str) -> anyhow::Result<String> {
    let fetched = tokio::time::timeout(LIMIT, get(url)).await;
    fetched.unwrap_or_else(|_| bail!("no answer within {} s", LIMIT.as_secs())).with_context(|| format!("fetch {url}"))
}

fn parse(url: &str) -> anyhow::Result<(Uri, String, bool)> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
    let host = uri.host().with_context(|| format!("{url} names no host"))?.trim_matches(['[', ']']).to_owned();
    let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok((uri, host, true)),
        Some("http") if is_here => Ok((uri, host, false)),
        _ => bail!("{url}: keys are fetched from https:// only; http:// is for this machine"),
    }
}

async fn get(url: &str) -> anyhow::Result<String> {
    let (uri, host, is_secure) = parse(url)?;
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.context("connect")?;
    if !is_secure {
        return ask(stream, &uri).await;
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host).context("the host is no name")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.context("TLS")?;
    ask(stream, &uri).await
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> anyhow::Result<String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender, or with the server.
    let driver = shutdown::spawn("fetch-keys", connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let request = Request::get(path).header("host", authority).header("accept", "application/json");
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if answer.status() != StatusCode::OK {
        bail!("the answer is {}", answer.status());
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    let body = body.map_err(|cause| anyhow::anyhow!("the answer cannot be read: {cause}"))?;
    Ok(String::from_utf8(body.to_bytes().to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_a_connection_that_nobody_can_change() {
        for good in
            ["https://id.example.org/keys", "http://127.0.0.1:8080/keys", "http://[::1]/k", "http://localhost/k"]
        {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["http://id.example.org/keys", "ftp://localhost/k", "file:///etc/keys", "keys", ""] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
