//! When to repeat a call, and how long to wait before.
//!
//! Only UNAVAILABLE is repeated blindly. RESOURCE_EXHAUSTED and ABORTED are repeated when the server says when. All other
//! answers would be the same again. What may be repeated at all is the caller's business: see [`Client::repeat`].

use std::{future::Future, time::Duration};

use tonic::{Code, Response, Status};

use super::{Client, Error, error::Refusal};

/// Tries in all, the first one included.
const MAX_ATTEMPTS: u32 = 4;

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A wait the server asks for that is longer than this is for the caller to decide on.
const LONGEST_TOLD_WAIT: Duration = Duration::from_secs(10);

/// Waits that double from 0.1 s to 2 s, each spread at random over its upper half so that clients do not return together.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    waits: u32,
}

impl Backoff {
    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = spread(ceiling(self.waits), rand::random::<f64>());
        self.waits = self.waits.saturating_add(1);
        wait
    }

    /// Starts over, after something went well.
    pub fn reset(&mut self) {
        self.waits = 0;
    }

    /// How many waits there were since the start.
    pub fn waits(&self) -> u32 {
        self.waits
    }
}

fn ceiling(waits: u32) -> Duration {
    FIRST_WAIT.saturating_mul(2_u32.saturating_pow(waits)).min(LONGEST_WAIT)
}

/// Between half of `ceiling` and all of it; `chance` is from 0 to 1.
fn spread(ceiling: Duration, chance: f64) -> Duration {
    ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// How long to wait before the same call again; nothing if it must not be repeated.
pub(super) fn wait_before_retry(refusal: &Refusal, backoff: &mut Backoff) -> Option<Duration> {
    if refusal.no_retry || refusal.retry_after.is_some_and(|told| told > LONGEST_TOLD_WAIT) {
        return None;
    }
    match refusal.code {
        Code::Unavailable => Some(refusal.retry_after.unwrap_or_default().max(backoff.next_wait())),
        // A little more than told: those who were told the same time should not all come at it.
        Code::ResourceExhausted | Code::Aborted => refusal.retry_after.map(|told| told + backoff.next_wait() / 4),
        _ => None,
    }
}

impl Client {
    /// Makes a call, up to four times while the server is not available. Only for calls that are safe to repeat: reads,
    /// and changes with a `request_id` that is the same in each try.
    pub async fn repeat<T, F, A>(&self, mut attempt: A) -> Result<T, Error>
    where
        A: FnMut() -> F,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::default();
        let mut tries = 1;
        loop {
            let error = match attempt().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            let wait = error.refusal().and_then(|refusal| wait_before_retry(refusal, &mut backoff));
            match wait {
                Some(wait) if tries < MAX_ATTEMPTS => {
                    tracing::debug!(%error, tries, ?wait, "call is repeated");
                    tokio::time::sleep(wait).await;
                    tries += 1;
                }
                _ => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let millis: Vec<_> = (0..7).map(|waits| ceiling(waits).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(ceiling(u32::MAX), LONGEST_WAIT);
    }

    #[test]
    fn waits_are_spread_over_the_upper_half() {
        assert_eq!(spread(Duration::from_secs(2), 0.0), Duration::from_secs(1));
        assert_eq!(spread(Duration::from_secs(2), 1.0), Duration::from_secs(2));
        let wait = Backoff::default().next_wait();
        assert!((FIRST_WAIT / 2..=FIRST_WAIT).contains(&wait));
    }

    fn refusal(code: Code, told: Option<Duration>) -> Refusal {
        Refusal::from(Status::with_error_details(code, "", ErrorDetails::with_retry_info(told)))
    }

    #[test]
    fn only_unavailable_is_repeated_without_being_told() {
        let told = Some(Duration::from_secs(1));
        let wait = |code, told| wait_before_retry(&refusal(code, told), &mut Backoff::default());
        assert!(wait(Code::Unavailable, None).is_some());
        assert_eq!(wait(Code::ResourceExhausted, None), None);
        assert_eq!(wait(Code::Aborted, None), None);
        assert!(wait(Code::ResourceExhausted, told) >= told);
        assert!(wait(Code::Aborted, told) >= told);
        assert!(wait(Code::Unavailable, told) >= told);
        for code in [Code::Internal, Code::DeadlineExceeded, Code::InvalidArgument, Code::NotFound] {
            assert_eq!(wait(code, told), None);
        }
        assert_eq!(wait(Code::ResourceExhausted, Some(Duration::from_secs(60))), None);
    }

    #[tokio::test]
    async fn a_call_is_tried_four_times_at_most() {
        let client = Client::builder().endpoint("127.0.0.1:1").connect_lazy().unwrap();
        let mut tries = 0;
        let answer: Result<(), _> = client
            .repeat(|| {
                tries += 1;
                async { Err(Status::unavailable("away")) }
            })
            .await;
        assert_eq!((answer.unwrap_err().code(), tries), (Code::Unavailable, MAX_ATTEMPTS));
    }
}
