//! Tokens over the wire: of the secret of the server, of issuers with files of keys, and of one whose keys are fetched.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::{Value, json};
use tasktower::pb;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::reason;
use crate::support::{
    backend::Database,
    client::Clients,
    credentials::Shown,
    server::Server,
    wait::{SOON, eventually},
};

const NEW_SECRET: &str = "new-secret-new-secret-new-secret-new";
const OLD_SECRET: &str = "old-secret-old-secret-old-secret-old";

/// Seconds from now, as tokens have times.
fn in_seconds(seconds: i64) -> i64 {
    super::in_seconds(seconds).seconds
}

/// How a call with a token is answered: `user:…` if it is taken, else the reason.
async fn answered(clients: &Clients, token: &str) -> String {
    let clients = clients.showing(Shown::bearer(token));
    let submit = pb::SubmitTaskRequest { task: Some(super::task("t")), ..Default::default() };
    match clients.tasks().submit_task(submit).await {
        Ok(answer) => {
            let name = answer.into_inner().name;
            let request = pb::GetTaskRequest { name, view: 0 };
            clients.tasks().get_task(request).await.expect("its own").into_inner().task.expect("a task").owner
        }
        Err(status) => reason(&status),
    }
}

fn signed(algorithm: Algorithm, key: &EncodingKey, kid: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).expect("signed")
}

fn by_secret(secret: &str, claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(secret.as_bytes()), None, claims)
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test]
async fn tokens_of_the_secret_are_taken_while_they_are_good() {
    let database = Database::sqlite();
    let secrets = format!("{NEW_SECRET} {OLD_SECRET}");
    let arguments =
        ["--jwt-secret", &secrets, "--jwt-audience", "tasktower", "--jwt-issuer", "us", "--admins", "user:local/ada"];
    let server = Server::start_with(&database, &arguments).await;
    let clients = Clients::connect(&server).await;
    let claims = |change: Value| {
        let mut claims = json!({"sub": "ada", "exp": in_seconds(300), "aud": "tasktower", "iss": "us"});
        for (claim, value) in change.as_object().expect("an object") {
            claims[claim] = value.clone();
        }
        claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        claims
    };
    let new = |change: Value| by_secret(NEW_SECRET, &claims(change));
    // Rotated: both secrets are good, and another is not.
    for secret in [NEW_SECRET, OLD_SECRET] {
        assert_eq!(answered(&clients, &by_secret(secret, &claims(json!({})))).await, "user:local/ada");
    }
    assert_eq!(answered(&clients, &by_secret(&"x".repeat(32), &claims(json!({})))).await, "TOKEN_INVALID");
    // Expired within the leeway of 60 s, and beyond it.
    assert_eq!(answered(&clients, &new(json!({"exp": in_seconds(-30)}))).await, "user:local/ada");
    assert_eq!(answered(&clients, &new(json!({"exp": in_seconds(-70)}))).await, "TOKEN_EXPIRED");
    // By `id` when there is no `sub`. A principal without a role is known, and may nothing.
    assert_eq!(answered(&clients, &new(json!({"sub": null, "id": "ada"}))).await, "user:local/ada");
    assert_eq!(answered(&clients, &new(json!({"sub": "bob"}))).await, "PERMISSION_DENIED");
    for wrong in [
        json!({"exp": null}),
        json!({"exp": in_seconds(300).to_string()}),
        json!({"aud": null}),
        json!({"aud": "elsewhere"}),
        json!({"iss": "them"}),
        json!({"sub": null}),
        json!({"nbf": in_seconds(300)}),
        json!({"more": "x".repeat(7_000)}),
    ] {
        assert_eq!(answered(&clients, &new(wrong.clone())).await, "TOKEN_INVALID", "{wrong}");
    }
    // `none` in its spellings, with and without a signature.
    let good = new(json!({}));
    let (_, signature) = good.rsplit_once('.').expect("three parts");
    for alg in ["none", "None", "NONE", "HS512"] {
        let unsigned = format!("{}.{}", part(&json!({"alg": alg, "typ": "JWT"})), part(&claims(json!({}))));
        for end in ["", signature] {
            assert_eq!(answered(&clients, &format!("{unsigned}.{end}")).await, "TOKEN_INVALID", "{alg}");
        }
    }
}

/// A pair of keys of each kind, in files.
struct Keys {
    folder: TempDir,
    pairs: Vec<(Algorithm, KeyPair)>,
}

impl Keys {
    fn make() -> Keys {
        let folder = TempDir::new().expect("a folder");
        let kinds = [
            (Algorithm::ES256, &PKCS_ECDSA_P256_SHA256),
            (Algorithm::EdDSA, &PKCS_ED25519),
            (Algorithm::RS256, &PKCS_RSA_SHA256),
        ];
        let pairs = kinds.into_iter().map(|(algorithm, kind)| (algorithm, KeyPair::generate_for(kind).expect("a key")));
        let keys = Keys { folder, pairs: pairs.collect() };
        for (algorithm, pair) in &keys.pairs {
            fs::write(keys.path(&format!("{algorithm:?}.pem")), pair.public_key_pem()).expect("written");
        }
        keys
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    fn pair(&self, algorithm: Algorithm) -> (EncodingKey, &KeyPair) {
        let (_, pair) = self.pairs.iter().find(|(of, _)| *of == algorithm).expect("made");
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        (key.expect("a key"), pair)
    }

    /// A server that trusts an issuer with this in its entry.
    async fn serve(&self, database: &Database, entry: &str) -> Server {
        let file = self.path("tasktower.toml");
        let text = format!(
            "admins = ['user:corp/ada']\n[[issuers]]\nname = 'corp'\nissuer = 'https://id'\naudience = ['tower']\n{entry}"
        );
        fs::write(&file, text).expect("written");
        Server::start_with(database, &["--config", &file, "--jwt-secret", NEW_SECRET]).await
    }
}

fn of_corp() -> Value {
    json!({"sub": "ada", "exp": in_seconds(300), "iss": "https://id", "aud": ["tower", "other"]})
}

#[tokio::test]
async fn tokens_of_an_issuer_are_checked_with_its_keys_and_in_no_other_way() {
    let keys = Keys::make();
    let database = Database::sqlite();
    let files = ["ES256", "EdDSA", "RS256"].map(|name| format!("'{}'", keys.path(&format!("{name}.pem")))).join(", ");
    let entry = format!("algorithms = ['ES256', 'EdDSA', 'RS256']\nkey_files = [{files}]");
    let server = keys.serve(&database, &entry).await;
    let clients = Clients::connect(&server).await;
    for algorithm in [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256] {
        let (key, pair) = keys.pair(algorithm);
        let good = signed(algorithm, &key, None, &of_corp());
        assert_eq!(answered(&clients, &good).await, "user:corp/ada", "{algorithm:?}");
        // The public key as a secret: in the file's form, and as bytes.
        for secret in [pair.public_key_pem().into_bytes(), pair.public_key_raw().to_vec()] {
            let swapped = signed(Algorithm::HS256, &EncodingKey::from_secret(&secret), None, &of_corp());
            assert_eq!(answered(&clients, &swapped).await, "TOKEN_INVALID", "{algorithm:?}");
        }
        // Another key of the same kind.
        let other = Keys::make();
        let forged = signed(algorithm, &other.pair(algorithm).0, None, &of_corp());
        assert_eq!(answered(&clients, &forged).await, "TOKEN_INVALID", "{algorithm:?}");
        // The name of a key is a name, whatever it looks like.
        for kid in ["../../../../dev/null", "' OR 1=1 --", &"k".repeat(300)] {
            let forged = signed(algorithm, &other.pair(algorithm).0, Some(kid), &of_corp());
            assert_ne!(answered(&clients, &forged).await, "user:corp/ada", "{kid}");
        }
    }
    // The secret of the server does not sign for an issuer.
    assert_ne!(answered(&clients, &by_secret(NEW_SECRET, &of_corp())).await, "user:corp/ada");
}

/// A key set for a key of this kind.
fn jwks(pair: &KeyPair, kid: &str) -> String {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": x}]}).to_string()
}

#[tokio::test]
async fn keys_are_fetched_and_a_new_one_is_found_by_its_name() {
    let (old, new) = (Keys::make(), Keys::make());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    let (first, second) = (old.pair(Algorithm::EdDSA), new.pair(Algorithm::EdDSA));
    let texts = [jwks(first.1, "k1"), jwks(second.1, "k2")];
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let _ = stream.read(&mut request).await;
            let text = &texts[counter.fetch_add(1, Ordering::Relaxed).min(1)];
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
        }
    });
    let database = Database::sqlite();
    let server = old.serve(&database, &format!("algorithms = ['EdDSA']\njwks_url = '{url}'")).await;
    let clients = Clients::connect(&server).await;
    let by_first = signed(Algorithm::EdDSA, &first.0, Some("k1"), &of_corp());
    let by_second = signed(Algorithm::EdDSA, &second.0, Some("k2"), &of_corp());
    assert_eq!(answered(&clients, &by_first).await, "user:corp/ada");
    // The first fetch was at the start, and an unknown name causes another a minute later at most.
    eventually("the new key is taken", SOON * 5, async || {
        let answer = answered(&clients, &by_second).await;
        if answer == "user:corp/ada" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    // What was signed with the key that is gone is good no longer, though it was.
    assert_eq!(answered(&clients, &by_first).await, "TOKEN_INVALID");
}
