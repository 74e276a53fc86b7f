//! `tasktower serve`: a server in production.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;

use super::signals;
use crate::{
    config::{CallerSettings, Settings, TlsSettings},
    server, telemetry,
};

/// Flags win over the environment, the environment over the file.
#[derive(Args, Debug)]
#[command(before_help = "\
Examples:
  tasktower key create service:admin --role admin --database-url postgres://…   the first key
  tasktower serve --config tasktower.toml
  TASKTOWER_DATABASE_URL=postgres://… tasktower serve --listen 127.0.0.1:50051")]
pub struct ServeArgs {
    /// The configuration file (TOML)
    #[arg(long, env = "TASKTOWER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen for gRPC
    #[arg(long, env = "TASKTOWER_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where to answer health probes, in plaintext
    #[arg(long, env = "TASKTOWER_ADMIN_LISTEN", value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
    /// The database: postgres://… or sqlite://…
    #[arg(long, env = "TASKTOWER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// A file that holds the database URL
    #[arg(long, env = "TASKTOWER_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// Seconds to go on serving after the signal to stop, so that load balancers notice first [default: 5]
    #[arg(long, env = "TASKTOWER_DRAIN_DELAY_SECONDS", value_name = "SECONDS")]
    pub drain_delay_seconds: Option<u64>,
    #[command(flatten)]
    pub retention: RetentionArgs,
    /// A file with the Ed25519 private key (PEM) that signs heads of the audit [default: a key in the database]
    #[arg(long, env = "TASKTOWER_AUDIT_KEY_FILE", value_name = "FILE")]
    pub audit_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub callers: CallerArgs,
}

/// Who may call, and how connections are secured.
#[derive(Args)]
pub struct CallerArgs {
    /// Secrets of tokens signed with HS256, 32 bytes or more, newest first; JWT_SECRET_KEY is read too
    #[arg(long, env = "TASKTOWER_JWT_SECRET", hide_env_values = true, value_name = "SECRETS")]
    pub jwt_secret: Option<String>,
    /// A file that holds them
    #[arg(long, env = "TASKTOWER_JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// What tokens signed with the secret must say in `iss`
    #[arg(long, env = "TASKTOWER_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// What tokens signed with the secret must say in `aud`
    #[arg(long, env = "TASKTOWER_JWT_AUDIENCE", value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// Principals that are administrators of all projects, whatever memberships say
    #[arg(long, env = "TASKTOWER_ADMINS", value_delimiter = ',', value_name = "PRINCIPAL,…")]
    pub admins: Option<Vec<String>>,
    /// The certificate to serve with (PEM); read again when it changes
    #[arg(long, env = "TASKTOWER_TLS_CERTIFICATE_FILE", value_name = "FILE")]
    pub tls_certificate_file: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, env = "TASKTOWER_TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,
    /// Serve without TLS on an address that is not of this machine alone: something in front of it adds TLS
    #[arg(long, env = "TASKTOWER_INSECURE_PLAINTEXT", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    pub insecure_plaintext: Option<bool>,
}

impl std::fmt::Debug for CallerArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerArgs").field("admins", &self.admins).finish_non_exhaustive()
    }
}

impl CallerArgs {
    fn into_settings(self) -> (CallerSettings, TlsSettings) {
        let other = std::env::var("JWT_SECRET_KEY").ok().filter(|_| self.jwt_secret_file.is_none());
        let callers = CallerSettings {
            // The name other programs use is accepted too.
            jwt_secret: self.jwt_secret.or(other),
            jwt_secret_file: self.jwt_secret_file,
            jwt_issuer: self.jwt_issuer,
            jwt_audience: self.jwt_audience,
            issuers: None,
            admins: self.admins,
        };
        let tls = TlsSettings {
            tls_certificate_file: self.tls_certificate_file,
            tls_key_file: self.tls_key_file,
            insecure_plaintext: self.insecure_plaintext,
        };
        (callers, tls)
    }
}

/// How long history is kept, for those who serve it.
#[derive(Args, Clone, Debug, Default)]
pub struct RetentionArgs {
    /// Days to keep final tasks that no rule of their project matches [default: 30]
    #[arg(long, env = "TASKTOWER_HISTORY_RETENTION_DAYS", value_name = "DAYS")]
    pub history_retention_days: Option<u32>,
    /// Days after which a watch can no longer be resumed [default: 7]
    #[arg(long, env = "TASKTOWER_FEED_RETENTION_DAYS", value_name = "DAYS")]
    pub feed_retention_days: Option<u32>,
    /// Days to keep the record of who changed what, at least [default: 90]
    #[arg(long, env = "TASKTOWER_AUDIT_RETENTION_DAYS", value_name = "DAYS")]
    pub audit_retention_days: Option<u32>,
    /// When to delete what is too old, once a day [default: 02:00]
    #[arg(long, env = "TASKTOWER_RETENTION_TIME", value_name = "HH:MM")]
    pub retention_time: Option<String>,
    /// The IANA zone of that time [default: UTC]
    #[arg(long, env = "TASKTOWER_RETENTION_TIME_ZONE", value_name = "ZONE")]
    pub retention_time_zone: Option<String>,
}

impl RetentionArgs {
    /// As settings with nothing else said.
    pub fn into_settings(self) -> Settings {
        Settings {
            history_retention_days: self.history_retention_days,
            feed_retention_days: self.feed_retention_days,
            audit_retention_days: self.audit_retention_days,
            retention_time: self.retention_time,
            retention_time_zone: self.retention_time_zone,
            ..Settings::default()
        }
    }
}

/// Runs until it is told to stop.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    telemetry::start()?;
    let file = match &args.config {
        Some(path) => Settings::from_file(path)?,
        None => Settings::default(),
    };
    let (callers, tls) = args.callers.into_settings();
    let flags = Settings {
        listen: args.listen,
        admin_listen: args.admin_listen,
        // The name other programs use is accepted too.
        database_url: args
            .database_url
            .or_else(|| std::env::var("DATABASE_URL").ok().filter(|_| args.database_url_file.is_none())),
        database_url_file: args.database_url_file,
        drain_delay_seconds: args.drain_delay_seconds,
        audit_key_file: args.audit_key_file,
        callers,
        tls,
        ..args.retention.into_settings()
    };
    let config = flags.or(file).into_server()?;
    server::run(config, signals::stop(), |addresses| {
        // The first line on stdout tells whoever started us where we are.
        println!("listening grpc={} admin={}", addresses.grpc, addresses.admin);
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
