//! What it adds to a call to know who calls and what it may do, with a key, and with a token that was seen before. Prints
//! one JSON object.

use std::{
    hint::black_box,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use tasktower::{
    app::{App, authentication::Shown},
    context::Caller,
    domain::{
        api_key::KeySettings,
        member::Scope,
        permission::Permission,
        retention::RetentionSettings,
        role::Role,
        token::{Algorithm as Signed, Callers, IssuerSettings, KeySource, LOCAL_ISSUER, Secret},
    },
    ids::ProjectId,
    store::{DatabaseUrl, Store, migrate},
};
use tokio_util::sync::CancellationToken;

const RUNS: usize = 20_000;
/// Calls timed at once: one alone is as short as reading the clock.
const AT_ONCE: usize = 16;
const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = DatabaseUrl::Sqlite(folder.path().join("bench.db"));
    migrate::up(&url).await?;
    let local = IssuerSettings {
        name: LOCAL_ISSUER.to_owned(),
        algorithms: vec![Signed::Hs256],
        issuer: None,
        audience: vec!["tasktower".to_owned()],
        leeway: 0,
        keys: KeySource::Secrets(vec![Secret::new(SECRET.to_owned())]),
    };
    let callers = Callers::Known { issuers: vec![local], admins: vec!["user:local/ada".to_owned()] };
    let app =
        App::with_callers(Store::open(&url).await?, CancellationToken::new(), RetentionSettings::default(), callers)?;
    let member = Some((Scope::Everywhere, Role::Operator));
    let caller = Caller::system("system:bench");
    let (_, key) = app.create_api_key(&caller, "service:bench".to_owned(), KeySettings::default(), member).await?;
    #[allow(clippy::disallowed_methods, reason = "a token is made by others, whose clock this is")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let claims = serde_json::json!({"sub": "ada", "aud": "tasktower", "exp": now + 3_600, "groups": "x".repeat(300)});
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))?;

    let project = ProjectId::new("default");
    let mut figures = Vec::new();
    for (name, shown) in [("key", Shown::Key(&key)), ("token", Shown::Bearer(&token))] {
        let mut nanos = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let began = Instant::now();
            for _ in 0..AT_ONCE {
                let verified = app.authenticate(black_box(shown), None).await?;
                assert!(verified.authority.permits(Permission::TasksRead, Some(&project)));
            }
            nanos.push(began.elapsed().as_nanos() / AT_ONCE as u128);
        }
        nanos.sort_unstable();
        let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        figures.push(format!("\"{name}_p50_us\":{},\"{name}_p99_us\":{}", at(0.5), at(0.99)));
    }
    println!("{{\"scenario\":\"authentication\",\"runs\":{RUNS},{}}}", figures.join(","));
    Ok(())
}
