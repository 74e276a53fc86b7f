//! How many connections fit into the descriptors this process may have, so that a crowd of clients never takes those
//! the database needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Connections for calls open at a time, if descriptors allow. An idle one takes 27 KiB, most of it buffers of HTTP/2, so
/// a crowd of this size that does nothing takes 80 MiB.
const CONNECTION_LIMIT: usize = 3_000;
/// Descriptors for everything that is no connection of a client: the database with its pools, files, the runtime.
const RESERVED: usize = 128;

/// Raises the soft limit of descriptors as far as it goes without asking anybody, and answers how many connections for
/// calls may be open besides those for probes. Says so when it is fewer than it would be.
pub(super) fn connection_limit(probes: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = (CONNECTION_LIMIT + probes + RESERVED) as u64;
    if current.is_some_and(|current| current < wanted) {
        let raised = Some(maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        if let Err(cause) = setrlimit(Resource::Nofile, Rlimit { current: raised, maximum }) {
            tracing::warn!(%cause, "the limit of open files could not be raised");
        }
    }
    let limit = fitting(getrlimit(Resource::Nofile).current, probes);
    if limit < CONNECTION_LIMIT {
        tracing::warn!(connections = limit, "fewer connections than usual: the limit of open files is low");
    }
    limit
}

/// How many connections fit. At least a few, whatever the limit: then it shows where everybody sees it.
fn fitting(descriptors: Option<u64>, probes: usize) -> usize {
    const LEAST: usize = 16;
    let descriptors = descriptors.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    descriptors.saturating_sub(probes + RESERVED).clamp(LEAST, CONNECTION_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_database() {
        assert_eq!(fitting(None, 256), CONNECTION_LIMIT);
        assert_eq!(fitting(Some(1_024), 256), 1_024 - 256 - RESERVED);
        assert_eq!(fitting(Some(20), 256), 16);
    }
}
