//! How long a call may take: what the client allows, but not longer than we do. We answer DEADLINE_EXCEEDED ourselves,
//! because tonic's own timer answers CANCELLED. Both run; ours has to be first.

use std::{future::Future, time::Duration};

use http::HeaderMap;

use crate::api::access::Rule;

/// The most a call may take.
const UNARY_LIMIT: Duration = Duration::from_secs(5);

/// The most a call may take to send its one message, whatever it may take afterwards.
pub const REQUEST_LIMIT: Duration = UNARY_LIMIT;

/// The most a call may take that waits by itself: its longest wait of 30 s, and the usual time.
const LONG_POLL_LIMIT: Duration = Duration::from_secs(35);

/// Calls that wait for something to happen.
const LONG_POLLS: [&str; 2] = ["/tasktower.v1.WorkerService/LeaseTasks", "/tasktower.v1.TaskService/WaitTask"];

/// How much sooner than tonic's timer ours ends: more than the millisecond timers are exact to, and no one's loss.
const HEAD_START: Duration = Duration::from_millis(3);

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Digits of a `grpc-timeout`, by the gRPC specification.
const MAX_DIGITS: usize = 8;

/// How long this call may take. A stream may take as long as its client says, or else for ever: its age is limited
/// elsewhere.
pub fn of(headers: &HeaderMap, rule: &Rule, method: &str) -> Option<Duration> {
    let client = headers.get(GRPC_TIMEOUT).and_then(|value| parse(value.to_str().ok()?));
    let client = client.map(|limit| limit.saturating_sub(HEAD_START.min(limit / 2)));
    let own = match () {
        () if rule.is_stream => return client,
        () if LONG_POLLS.contains(&method) => LONG_POLL_LIMIT,
        () => UNARY_LIMIT,
    };
    Some(client.map_or(own, |client| client.min(own)))
}

/// Runs a future within a limit; none when it was not done in time.
pub async fn within<F: Future>(limit: Option<Duration>, future: F) -> Option<F::Output> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// `TimeoutValue TimeoutUnit`, for example `1500m`. What does not parse is no limit: the client has its own clock.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::access::AccessRules, pb};

    fn limit_of(method: &str, timeout: Option<&str>) -> Option<Duration> {
        let rules = AccessRules::load().unwrap();
        let mut headers = HeaderMap::new();
        if let Some(timeout) = timeout {
            headers.insert(GRPC_TIMEOUT, timeout.parse().unwrap());
        }
        of(&headers, rules.of(method).unwrap(), method)
    }

    #[test]
    fn the_shorter_limit_counts_and_streams_have_none_of_ours() {
        let get = "/tasktower.v1.TaskService/GetTask";
        assert_eq!(limit_of(get, None), Some(UNARY_LIMIT));
        assert_eq!(limit_of(get, Some("1H")), Some(UNARY_LIMIT));
        assert_eq!(limit_of(get, Some("100m")), Some(Duration::from_millis(97)));
        assert_eq!(limit_of(get, Some("2m")), Some(Duration::from_millis(1)));
        assert_eq!(limit_of("/tasktower.v1.TaskService/WatchTasks", None), None);
        assert_eq!(limit_of("/tasktower.v1.WorkerService/Session", Some("1S")), Some(Duration::from_millis(997)));
    }

    #[test]
    fn long_polls_are_methods_that_exist_and_have_a_wait() {
        for method in LONG_POLLS {
            assert_eq!(limit_of(method, None), Some(LONG_POLL_LIMIT));
        }
        let pool = prost_reflect::DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let waiting = pool.services().flat_map(|service| {
            let methods: Vec<_> = service.methods().collect();
            let waits = methods.into_iter().filter(|method| method.input().get_field_by_name("wait").is_some());
            waits.map(|method| format!("/{}/{}", service.full_name(), method.name())).collect::<Vec<_>>()
        });
        let mut waiting: Vec<_> = waiting.collect();
        let mut listed = LONG_POLLS.map(str::to_owned);
        waiting.sort();
        listed.sort();
        assert_eq!(waiting, listed);
    }

    #[test]
    fn timeouts_are_read_as_specified() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "5", "5s", "-1S", "+1S", "123456789m", "1 S", "é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
