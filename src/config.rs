//! Configuration of `tasktower serve`: flags win over the environment, the environment over the file. The command line
//! brings the first two; this module reads the file and makes one checked value of all three.

mod callers;
mod tls;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

pub use self::{
    callers::{CallerSettings, IssuerFile},
    tls::{TlsFiles, TlsSettings},
};
pub use crate::domain::token::Callers;
use crate::{
    domain::{
        retention::{DailyTime, RetentionSettings},
        task::{DAY, Micros},
    },
    store::DatabaseUrl,
};

/// Where clients reach the service unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";
/// Where probes reach it unless told otherwise.
pub const DEFAULT_ADMIN_LISTEN: &str = "127.0.0.1:9464";
/// How long a stopping server goes on serving after readiness is withdrawn, so that load balancers notice first.
pub const DEFAULT_DRAIN_DELAY: Duration = Duration::from_secs(5);
/// The longest drain delay that leaves time to end streams before the hard limit.
const MAX_DRAIN_DELAY: Duration = Duration::from_secs(15);
/// The most days anything may be kept: a century.
const MAX_RETENTION_DAYS: u32 = 36_500;

/// What the server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where clients reach the service.
    pub listen: SocketAddr,
    /// Where probes reach it, in plaintext.
    pub admin_listen: SocketAddr,
    /// The database.
    pub database: DatabaseUrl,
    /// How long it goes on serving after it is told to stop.
    pub drain_delay: Duration,
    /// How long history is kept, and when it goes.
    pub retention: RetentionSettings,
    /// The key that signs heads of the journal; none means the one in the database.
    pub audit_key_file: Option<PathBuf>,
    /// Who may call.
    pub callers: Callers,
    /// The certificate to serve with; plaintext without one.
    pub tls: Option<TlsFiles>,
}

/// Settings from one source; what is none is left to the next.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where clients reach the service. Default 127.0.0.1:50051.
    pub listen: Option<SocketAddr>,
    /// Where probes reach it. Default 127.0.0.1:9464.
    pub admin_listen: Option<SocketAddr>,
    /// The database: `postgres://…` or `sqlite://FILE`.
    pub database_url: Option<String>,
    /// A file that holds the database URL, for secrets that are mounted.
    pub database_url_file: Option<PathBuf>,
    /// Seconds the server goes on serving after it is told to stop. Default 5, at most 15.
    pub drain_delay_seconds: Option<u64>,
    /// Days final tasks are kept that no rule of their project matches. Default 30.
    pub history_retention_days: Option<u32>,
    /// Days after which a watch can no longer be resumed. Default 7.
    pub feed_retention_days: Option<u32>,
    /// Days the record of who changed what is kept at least. Default 90.
    pub audit_retention_days: Option<u32>,
    /// When the daily retention run is, as a clock in its zone shows it. Default 02:00.
    pub retention_time: Option<String>,
    /// The IANA zone of that time. Default UTC.
    pub retention_time_zone: Option<String>,
    /// A file with the Ed25519 private key, in PEM, that signs heads of the journal.
    pub audit_key_file: Option<PathBuf>,
    /// Who may call.
    #[serde(flatten)]
    pub callers: CallerSettings,
    /// How connections are secured.
    #[serde(flatten)]
    pub tls: TlsSettings,
}

impl Settings {
    /// Reads a TOML file. An unknown key is an error.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// These settings, and those of `next` where these say nothing.
    pub fn or(self, next: Self) -> Self {
        // A URL given here in either form hides both forms of the next source.
        let has_url = self.database_url.is_some() || self.database_url_file.is_some();
        Self {
            listen: self.listen.or(next.listen),
            admin_listen: self.admin_listen.or(next.admin_listen),
            database_url: self.database_url.or(next.database_url.filter(|_| !has_url)),
            database_url_file: self.database_url_file.or(next.database_url_file.filter(|_| !has_url)),
            drain_delay_seconds: self.drain_delay_seconds.or(next.drain_delay_seconds),
            history_retention_days: self.history_retention_days.or(next.history_retention_days),
            feed_retention_days: self.feed_retention_days.or(next.feed_retention_days),
            audit_retention_days: self.audit_retention_days.or(next.audit_retention_days),
            retention_time: self.retention_time.or(next.retention_time),
            retention_time_zone: self.retention_time_zone.or(next.retention_time_zone),
            audit_key_file: self.audit_key_file.or(next.audit_key_file),
            callers: self.callers.or(next.callers),
            tls: self.tls.or(next.tls),
        }
    }

    /// Checks them and fills in the defaults.
    pub fn into_server(self) -> anyhow::Result<ServerConfig> {
        let database = self.database()?;
        let drain_delay = self.drain_delay_seconds.map_or(DEFAULT_DRAIN_DELAY, Duration::from_secs);
        if drain_delay > MAX_DRAIN_DELAY {
            bail!("drain_delay_seconds may be at most {}", MAX_DRAIN_DELAY.as_secs());
        }
        let listen = match self.listen {
            Some(listen) => listen,
            None => DEFAULT_LISTEN.parse()?,
        };
        let callers = self.callers.callers()?;
        let tls = self.tls.files(listen)?;
        let admin_listen = match self.admin_listen {
            Some(listen) => listen,
            None => DEFAULT_ADMIN_LISTEN.parse()?,
        };
        let retention = self.retention()?;
        let audit_key_file = self.audit_key_file;
        Ok(ServerConfig { listen, admin_listen, database, drain_delay, retention, audit_key_file, callers, tls })
    }

    /// What these settings say about retention.
    pub fn retention(&self) -> anyhow::Result<RetentionSettings> {
        let usual = RetentionSettings::default();
        let days = |key, days: Option<u32>, usual: Micros| match days {
            None => Ok(usual),
            Some(days @ 1..=MAX_RETENTION_DAYS) => Ok(Micros::from(days) * DAY),
            Some(_) => bail!("{key} must be 1 to {MAX_RETENTION_DAYS}"),
        };
        let time = self.retention_time.clone().unwrap_or_else(|| usual.daily.clock());
        let zone = self.retention_time_zone.as_deref().unwrap_or(usual.daily.zone_name());
        let daily = DailyTime::new(&time, zone)
            .map_err(|cause| anyhow::anyhow!("retention_time or retention_time_zone: {cause}"))?;
        Ok(RetentionSettings {
            history: days("history_retention_days", self.history_retention_days, usual.history)?,
            feed: days("feed_retention_days", self.feed_retention_days, usual.feed)?,
            audit: days("audit_retention_days", self.audit_retention_days, usual.audit)?,
            daily,
        })
    }

    /// The database these settings name.
    pub fn database(&self) -> anyhow::Result<DatabaseUrl> {
        match (&self.database_url, &self.database_url_file) {
            (Some(_), Some(_)) => bail!("give the database URL or the file that holds it, not both"),
            (Some(url), None) => url.parse(),
            (None, Some(file)) => {
                let url = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
                url.trim().parse()
            }
            (None, None) => bail!(
                "no database is configured: set TASKTOWER_DATABASE_URL or --database-url \
                 (postgres://… or sqlite://FILE); `tasktower dev` needs none"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_sources_win_and_unknown_keys_are_errors() {
        let flags = Settings { listen: Some("127.0.0.1:1".parse().unwrap()), ..Settings::default() };
        let file: Settings = toml::from_str("listen = '127.0.0.1:2'\ndatabase_url = 'sqlite://x.db'").unwrap();
        let config = flags.or(file).into_server().unwrap();
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.database.to_string(), "sqlite://x.db");
        assert_eq!(config.drain_delay, DEFAULT_DRAIN_DELAY);
        assert!(toml::from_str::<Settings>("lisen = '127.0.0.1:2'").is_err());
    }

    #[test]
    fn retention_is_set_in_days_and_at_a_time_of_the_day() {
        let retention = |text: &str| toml::from_str::<Settings>(text).unwrap().retention();
        assert_eq!(retention("").unwrap(), RetentionSettings::default());
        let set =
            retention("history_retention_days = 14\nretention_time = '23:30'\nretention_time_zone = 'Asia/Tokyo'");
        let set = set.unwrap();
        assert_eq!((set.history, set.feed, set.audit), (14 * DAY, 7 * DAY, 90 * DAY));
        assert_eq!((set.daily.clock(), set.daily.zone_name()), ("23:30".to_owned(), "Asia/Tokyo"));
        for bad in [
            "history_retention_days = 0",
            "feed_retention_days = 36501",
            "audit_retention_days = 0",
            "retention_time = '25:00'",
            "retention_time_zone = 'Mars/Olympus'",
        ] {
            let error = retention(bad).unwrap_err().to_string();
            assert!(error.contains(bad.split(' ').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn credentials_go_over_the_network_only_where_nobody_reads_them() {
        let public = |more: &str| {
            let text = format!("listen = '0.0.0.0:50051'\ndatabase_url = 'sqlite://x.db'\n{more}");
            toml::from_str::<Settings>(&text).unwrap().into_server()
        };
        assert!(public("").unwrap_err().to_string().contains("insecure_plaintext"));
        assert!(public("insecure_plaintext = true").unwrap().tls.is_none());
        assert!(public("tls_certificate_file = 'a'\ntls_key_file = 'b'").unwrap().tls.is_some());
        assert!(public("tls_certificate_file = 'a'").unwrap_err().to_string().contains("tls_key_file"));
    }
}
