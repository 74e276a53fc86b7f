//! Waiting for something to become true. The only place in the tests that sleeps (`architecture.rs` checks that).

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Longer than anything takes that takes no time, even with every test running at once on two cores.
pub const SOON: Duration = Duration::from_secs(20);

/// Short enough to cost nothing, long enough not to disturb what is waited for.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Ok`; panics with the last `Err`, which says what is the case instead.
pub async fn eventually<T, E: Display>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let started = Instant::now();
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(instead) if started.elapsed() >= timeout => {
                panic!("not within {timeout:?}: {what}; instead: {instead}");
            }
            Err(_) => tokio::time::sleep(POLL_EVERY).await,
        }
    }
}

/// Lets time pass where the passing is the point (a lease runs out); `why` is for the reader.
pub async fn pause(_why: &str, duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test]
async fn eventually_answers_with_the_first_ok() {
    let mut asked = 0;
    let answer = eventually("the third answer", SOON, async || {
        asked += 1;
        if asked == 3 { Ok(asked) } else { Err(format!("answer {asked}")) }
    })
    .await;
    assert_eq!(answer, 3);
}

#[tokio::test]
#[should_panic(expected = "a miracle; instead: nothing happened")]
async fn eventually_says_what_is_the_case_instead() {
    eventually::<(), _>("a miracle", Duration::ZERO, async || Err("nothing happened")).await;
}
