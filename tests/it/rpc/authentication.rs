//! API keys over the wire, and what is said of a credential that is not taken.

use std::time::Duration;

use tasktower::{
    domain::api_key::key_text,
    pb::{self, Permission},
};
use tempfile::TempDir;
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Rpc, in_seconds, reason, refused, task};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    client::Clients,
    credentials::{PRINCIPAL, SECRET, Shown, key},
    process::{Process, tasktower},
    server::{Server, migrate},
    sql::Beside,
    wait::{SOON, eventually},
};

/// Revoked keys are refused everywhere within this time, on open streams within the other.
const EVERYWHERE_WITHIN: Duration = Duration::from_secs(5);
const STREAMS_WITHIN: Duration = Duration::from_secs(60);

/// Makes a key of a principal that is an administrator.
async fn make(clients: &Clients, key: pb::ApiKey) -> (pb::ApiKey, String) {
    let request = pb::CreateApiKeyRequest { api_key: Some(pb::ApiKey { principal: PRINCIPAL.into(), ..key }) };
    let made = clients.api_keys().create_api_key(request).await.expect("made").into_inner();
    (made.api_key.expect("a key"), made.key)
}

/// How a call with this is answered: the reason, or `OK`.
async fn answered(clients: &Clients, shown: Shown) -> String {
    let status = clients.showing(shown).queues().list_queues(pb::ListQueuesRequest::default()).await;
    status.map_or_else(|status| told(&status), |_| "OK".to_owned())
}

fn told(status: &Status) -> String {
    let code = if reason(status) == "RATE_LIMITED" { Code::ResourceExhausted } else { Code::Unauthenticated };
    assert!(status.code() == code || status.code() == Code::InvalidArgument, "{status:?}");
    reason(status)
}

#[tokio::test]
async fn a_key_lives_its_life() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        // Another server on the same database, where there can be one.
        let replica = match database.backend() {
            Backend::Postgres => Some(Server::start(database).await),
            Backend::Sqlite => None,
        };
        let clients = &rpc.clients;
        let scopes = vec![Permission::QueuesRead.into(), Permission::TasksRead.into()];
        let (made, first) =
            make(clients, pb::ApiKey { display_name: "shop".into(), scopes, ..Default::default() }).await;
        assert_eq!(made.name, format!("apiKeys/{}", &first[3..11]));
        assert_eq!(answered(clients, Shown::key(&first)).await, "OK");
        assert_eq!(answered(clients, Shown::bearer(&first)).await, "OK");
        if let Some(replica) = &replica {
            assert_eq!(answered(&Clients::connect(replica).await, Shown::key(&first)).await, "OK");
        }
        // Its principal may do more than its scopes let through.
        let narrow = clients.showing(Shown::key(&first));
        let submit = pb::SubmitTaskRequest { task: Some(task("t")), ..Default::default() };
        refused(narrow.tasks().submit_task(submit).await, Code::PermissionDenied, "PERMISSION_DENIED", &[]);

        eventually("it is known that it was used", Duration::from_secs(40), async || {
            let request = pb::GetApiKeyRequest { name: made.name.clone() };
            let key = clients.api_keys().get_api_key(request).await.unwrap().into_inner().api_key.unwrap();
            key.last_used_time.map(drop).ok_or_else(|| "not yet".to_owned())
        })
        .await;

        let changed = pb::ApiKey {
            name: made.name.clone(),
            allowed_cidrs: vec!["192.0.2.0/24".into()],
            etag: made.etag.clone(),
            ..Default::default()
        };
        let update = |api_key: pb::ApiKey| pb::UpdateApiKeyRequest { api_key: Some(api_key), update_mask: None };
        clients.api_keys().update_api_key(update(changed.clone())).await.unwrap();
        assert_eq!(answered(clients, Shown::key(&first)).await, "TOKEN_INVALID");
        let stale = clients.api_keys().update_api_key(update(changed.clone())).await;
        refused(stale, Code::Aborted, "ETAG_MISMATCH", &[]);
        let here = pb::ApiKey { allowed_cidrs: vec!["127.0.0.1".into()], etag: String::new(), ..changed };
        clients.api_keys().update_api_key(update(here)).await.unwrap();
        assert_eq!(answered(clients, Shown::key(&first)).await, "OK");

        // Rotated with an overlap both go on, without one the one before ends.
        let rotate = |seconds: i64| pb::RotateApiKeyRequest {
            name: made.name.clone(),
            overlap: Some(super::seconds(seconds)),
            etag: String::new(),
        };
        let second = clients.api_keys().rotate_api_key(rotate(3_600)).await.unwrap().into_inner();
        assert!(second.api_key.unwrap().previous_secret_expire_time.is_some());
        for key in [&first, &second.key] {
            assert_eq!(answered(clients, Shown::key(key)).await, "OK");
        }
        let third = clients.api_keys().rotate_api_key(rotate(0)).await.unwrap().into_inner().key;
        let ends = [&first, &second.key, &third].map(|key| answered(clients, Shown::key(key)));
        let [first_end, second_end, third_end] = ends;
        assert_eq!(
            (first_end.await, second_end.await, third_end.await),
            ("TOKEN_INVALID".into(), "TOKEN_INVALID".into(), "OK".into())
        );

        let revoke = pb::RevokeApiKeyRequest { name: made.name.clone(), etag: String::new() };
        clients.api_keys().revoke_api_key(revoke.clone()).await.unwrap();
        assert_eq!(answered(clients, Shown::key(&third)).await, "KEY_REVOKED");
        if let Some(replica) = &replica {
            let there = Clients::connect(replica).await;
            eventually("it is refused on the other server", EVERYWHERE_WITHIN, async || {
                let answer = answered(&there, Shown::key(&third)).await;
                if answer == "KEY_REVOKED" { Ok(()) } else { Err(answer) }
            })
            .await;
        }
        clients.api_keys().revoke_api_key(revoke).await.expect("revoking again changes nothing");
        refused(clients.api_keys().rotate_api_key(rotate(0)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);

        // All of it is in the journal, and no secret.
        let mut beside = Beside::open(database).await;
        let rows = beside.texts("SELECT diff FROM journal WHERE resource LIKE 'apiKeys/%' ORDER BY revision").await;
        assert_eq!(rows.len(), 6, "{rows:?}");
        for key in [&first, &second.key, &third] {
            assert!(!rows.concat().contains(&key[12..55]));
        }
    })
    .await;
}

#[tokio::test]
async fn keys_are_listed_and_expire() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let soon = pb::ApiKey { expire_time: Some(in_seconds(2)), ..Default::default() };
    let (short, text) = make(&rpc.clients, soon).await;
    assert_eq!(answered(&rpc.clients, Shown::key(&text)).await, "OK");
    make(&rpc.clients, pb::ApiKey::default()).await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListApiKeysRequest { page_size: 1, page_token, principal: PRINCIPAL.into() };
        let page = rpc.clients.api_keys().list_api_keys(request).await.unwrap().into_inner();
        names.extend(page.api_keys.into_iter().map(|key| key.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    // With the one of the tests.
    assert!(names.len() == 3 && names.is_sorted() && names.contains(&short.name), "{names:?}");
    eventually("it is over", SOON, async || {
        let answer = answered(&rpc.clients, Shown::key(&text)).await;
        if answer == "TOKEN_EXPIRED" { Ok(()) } else { Err(answer) }
    })
    .await;
    let past = pb::ApiKey { principal: PRINCIPAL.into(), expire_time: Some(in_seconds(-5)), ..Default::default() };
    let request = pb::CreateApiKeyRequest { api_key: Some(past) };
    let answer = rpc.clients.api_keys().create_api_key(request).await;
    refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["api_key.expire_time"]);
}

#[tokio::test]
async fn nobody_calls_without_a_credential_and_no_refusal_says_what_was_good() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let clients = &rpc.clients;
    assert_eq!(answered(clients, Shown::default()).await, "CREDENTIALS_MISSING");
    let (_, good) = make(clients, pb::ApiKey::default()).await;
    let unknown = key_text("unknown1", &good[12..55]);
    let wrong_secret = key_text(&good[3..11], &"x".repeat(43));
    let mut texts = Vec::new();
    for shown in [
        Shown::key("nonsense"),
        Shown::key(&good[1..]),
        Shown::key(&good.to_uppercase()),
        Shown::key(&unknown),
        Shown::key(&wrong_secret),
        Shown::bearer(&wrong_secret),
        Shown::bearer("a.b.c"),
        Shown::default().with("authorization", "Basic YTpi"),
    ] {
        let answer = clients.showing(shown).queues().list_queues(pb::ListQueuesRequest::default()).await;
        let status = refused(answer, Code::Unauthenticated, "TOKEN_INVALID", &[]);
        texts.push(status.message().to_owned());
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
    let both = Shown::key(&good).with("authorization", &format!("Bearer {good}"));
    let answer = clients.showing(both).queues().list_queues(pb::ListQueuesRequest::default()).await;
    refused(answer, Code::InvalidArgument, "FIELD_INVALID", &["x-api-key"]);

    // Streams and methods that do not exist are no way around.
    let watch = clients.showing(Shown::default()).tasks().watch_tasks(pb::WatchTasksRequest::default()).await;
    refused(watch, Code::Unauthenticated, "CREDENTIALS_MISSING", &[]);
    let session = tokio_stream::pending::<pb::SessionRequest>();
    let session = clients.showing(Shown::default()).workers().session(session).await;
    refused(session, Code::Unauthenticated, "CREDENTIALS_MISSING", &[]);
    let open = HealthClient::new(clients.showing(Shown::default()).channel());
    open.clone().check(HealthCheckRequest::default()).await.expect("probes have no credential");
}

#[tokio::test]
async fn an_address_that_guesses_is_not_listened_to_and_good_keys_are_taken_all_the_same() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let mut answers = Vec::new();
    for number in 0..40 {
        let guess = key_text(&format!("guess{number:03}"), &"x".repeat(43));
        answers.push(answered(&rpc.clients, Shown::key(&guess)).await);
    }
    assert_eq!(answers[0], "TOKEN_INVALID");
    assert_eq!(answers[39], "RATE_LIMITED");
    assert_eq!(answered(&rpc.clients, Shown::planted()).await, "OK");
}

#[tokio::test]
async fn an_open_stream_ends_when_its_key_is_revoked() {
    let database = Database::sqlite();
    let rpc = Rpc::start(&database).await;
    let (made, text) = make(&rpc.clients, pb::ApiKey::default()).await;
    let clients = rpc.clients.showing(Shown::key(&text));
    let mut stream = clients.tasks().watch_tasks(pb::WatchTasksRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("a bookmark");
    let revoke = pb::RevokeApiKeyRequest { name: made.name, etag: String::new() };
    rpc.clients.api_keys().revoke_api_key(revoke).await.unwrap();
    let end = tokio::time::timeout(STREAMS_WITHIN, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    });
    let status = end.await.expect("it ends in time").expect_err("with a reason");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "KEY_REVOKED"));
}

#[tokio::test]
async fn a_secret_is_nowhere_but_with_its_holder() {
    for_each_backend(async |database| {
        let mut server =
            Server::start_with_faults(database, &[("TASKTOWER_LOG", "info,tasktower=trace,tower=trace")]).await;
        let clients = Clients::connect(&server).await;
        let (_, good) = make(&clients, pb::ApiKey::default()).await;
        let mut said = String::new();
        for shown in [
            Shown::planted(),
            Shown::key(&format!("{}x", key())),
            Shown::key(&key_text("unknown1", SECRET)),
            Shown::bearer(&key_text("testsKey", &SECRET.replace('p', "q"))),
            Shown::bearer(&format!("{SECRET}.{SECRET}.{SECRET}")),
            Shown::default().with("authorization", SECRET),
            Shown::planted().with("authorization", &format!("Bearer {SECRET}")),
        ] {
            let clients = clients.showing(shown);
            let answer = clients.tasks().get_task(pb::GetTaskRequest { name: "nonsense".into(), view: 0 }).await;
            said.push_str(&format!("{:?}", answer.expect_err("refused")));
            let _ = clients
                .tasks()
                .submit_task(pb::SubmitTaskRequest { task: Some(task("t")), ..Default::default() })
                .await;
        }
        let admin = Clients::connect_to(&server.admin_endpoint()).await;
        let _ = HealthClient::new(admin.channel()).check(HealthCheckRequest::default()).await;
        server.stop(Duration::from_secs(30)).await;
        said.push_str(&server.process().log());
        assert!(said.contains("a credential was not taken") && said.contains("testsKey"), "{said}");
        let mut beside = Beside::open(database).await;
        let query =
            "SELECT coalesce(diff, '') || coalesce(snapshot, '') || actor || coalesce(resource, '') FROM journal";
        said.push_str(&beside.texts(query).await.concat());
        said.push_str(&beside.texts("SELECT id || principal || networks || secret_hash FROM api_key").await.concat());
        for secret in [SECRET, &good[12..55], &SECRET.replace('p', "q")] {
            assert!(!said.contains(secret));
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_installation_is_never_open() {
    for_each_backend(async |database| {
        migrate(database.url());
        let serve =
            ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--database-url", database.url()];
        let mut closed = Process::spawn("tasktower serve", tasktower().args(serve));
        assert!(!closed.exited(SOON).await.success());
        assert!(closed.log().contains("tasktower key create service:admin --role admin"), "{}", closed.log());

        let create =
            ["key", "create", "service:admin", "--role", "admin", "-o", "name", "--database-url", database.url()];
        let output = tasktower().args(create).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        let server = Server::start(database).await;
        let clients = Clients::connect(&server).await;
        let admin = clients.showing(Shown::key(&text));
        make(&admin, pb::ApiKey::default()).await;
        if database.backend() == Backend::Sqlite {
            let output = tasktower().args(create).output().expect("it runs");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && told.contains("leave --database-url out"), "{told}");
        }
    })
    .await;
}

#[test]
fn a_public_address_needs_tls_or_a_word() {
    let folder = TempDir::new().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("x.db").display());
    let output =
        tasktower().args(["serve", "--listen", "0.0.0.0:0", "--database-url", &url]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("--insecure-plaintext"), "{told}");
    assert!(!told.contains(SECRET) && !told.contains(key()));
}
