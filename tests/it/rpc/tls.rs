//! TLS: a certificate that clients trust, and its renewal while the server runs.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tasktower::{client::Client, pb};
use tempfile::TempDir;

use crate::support::{
    backend::Database,
    client::Clients,
    credentials,
    process::tasktower,
    server::Server,
    wait::{SOON, eventually},
};

/// An authority, and a server's certificate in files.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed");
        let authority = Authority { folder: TempDir::new().expect("a folder"), issuer };
        fs::write(authority.path("ca.pem"), authority.issuer.pem()).expect("written");
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes another certificate in place of the one there is.
    fn renew(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        fs::write(self.path("key.pem"), key.serialize_pem()).expect("written");
        fs::write(self.path("cert.pem"), certificate.pem()).expect("written");
    }

    async fn connect(&self, server: &Server, name: &str) -> Result<Client, tasktower::client::Error> {
        let endpoint = server.endpoint().replace("http://127.0.0.1", &format!("https://{name}"));
        Client::builder().endpoint(endpoint).api_key(credentials::key()).ca_file(self.path("ca.pem")).connect().await
    }
}

#[tokio::test]
async fn a_server_is_trusted_by_its_certificate_which_is_renewed_while_it_runs() {
    let authority = Authority::new();
    authority.renew("localhost");
    let database = Database::sqlite();
    let (certificate, key) = (authority.path("cert.pem"), authority.path("key.pem"));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let server = Server::start_with(&database, &["--tls-certificate-file", &certificate, "--tls-key-file", &key]).await;

    let client = authority.connect(&server, "localhost").await.expect("trusted");
    client.queues().list_queues(pb::ListQueuesRequest::default()).await.expect("answered");
    // Not under another name, not by who trusts another authority, and not in plaintext.
    assert!(authority.connect(&server, "127.0.0.1").await.is_err());
    let stranger = Authority::new();
    assert!(stranger.connect(&server, "localhost").await.is_err());
    let plain = Clients::connect_later(&server.endpoint());
    assert!(plain.queues().list_queues(pb::ListQueuesRequest::default()).await.is_err());

    let endpoint = server.endpoint().replace("http://127.0.0.1", "https://localhost");
    let mut command = tasktower();
    command.args(["--endpoint", &endpoint, "queue", "list"]).env("TASKTOWER_CA_FILE", authority.path("ca.pem"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("it ran").expect("it runs");
    assert!(output.status.success(), "{output:?}");

    // Half a renewal changes nothing; the whole of it holds for new connections.
    fs::write(authority.path("key.pem"), "nonsense").expect("written");
    authority.connect(&server, "localhost").await.expect("the last good one is kept");
    authority.renew("127.0.0.1");
    eventually("the new certificate is served", SOON.max(Duration::from_secs(20)), async || {
        authority.connect(&server, "127.0.0.1").await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    assert!(authority.connect(&server, "localhost").await.is_err());
    client.queues().list_queues(pb::ListQueuesRequest::default()).await.expect("an open connection goes on");
}
