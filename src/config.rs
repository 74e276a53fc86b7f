//! Configuration of `tasktower serve`: flags win over the environment, the environment over the file. The command line
//! brings the first two; this module reads the file and makes one checked value of all three.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::store::DatabaseUrl;

/// Where clients reach the service unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";
/// Where probes reach it unless told otherwise.
pub const DEFAULT_ADMIN_LISTEN: &str = "127.0.0.1:9464";
/// How long a stopping server goes on serving after readiness is withdrawn, so that load balancers notice first.
pub const DEFAULT_DRAIN_DELAY: Duration = Duration::from_secs(5);
/// The longest drain delay that leaves time to end streams before the hard limit.
const MAX_DRAIN_DELAY: Duration = Duration::from_secs(15);

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
    pub database_url_file: Option<std::path::PathBuf>,
    /// Seconds the server goes on serving after it is told to stop. Default 5, at most 15.
    pub drain_delay_seconds: Option<u64>,
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
        if !listen.ip().is_loopback() {
            bail!(
                "listen = {listen}: this version has no authentication yet and listens on loopback addresses only; \
                 use 127.0.0.1:{} behind a proxy that authenticates",
                listen.port()
            );
        }
        let admin_listen = match self.admin_listen {
            Some(listen) => listen,
            None => DEFAULT_ADMIN_LISTEN.parse()?,
        };
        Ok(ServerConfig { listen, admin_listen, database, drain_delay })
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
    fn a_public_address_is_refused_until_there_is_authentication() {
        let settings = Settings {
            listen: Some("0.0.0.0:50051".parse().unwrap()),
            database_url: Some("sqlite://x.db".to_owned()),
            ..Settings::default()
        };
        assert!(settings.into_server().unwrap_err().to_string().contains("loopback"));
    }
}
