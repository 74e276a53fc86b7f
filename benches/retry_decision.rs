//! What a decision about a failed attempt costs with fifty rules, each with an expression: the last of them matches. Prints
//! one JSON object; `make bench` shows it.

use std::{hint::black_box, time::Instant};

use tasktower::domain::{
    retry::{Action, FailedAttempt, MessageTest, RetrySettings, Rule, decide},
    retry_pattern::Patterns,
    task::TaskError,
};

const RULES: usize = 50;
const RUNS: usize = 20_000;
/// Decisions timed at once: one alone is as short as reading the clock.
const AT_ONCE: usize = 16;

fn main() {
    let rule = |number: usize| Rule {
        error_type: "Http*".to_owned(),
        message: Some(MessageTest::Regex(format!(r"^(status|code) {}\d\d: .*(gone|denied)$", 100 + number))),
        action: Action::DeadLetter,
        ..Rule::default()
    };
    let settings = RetrySettings { rules: (0..RULES).map(rule).collect(), ..RetrySettings::default() };
    let error = TaskError::own("HttpError", "status 14999: the page at https://example.org/a/b/c is gone");
    let failed = FailedAttempt { error: &error, number: 3, age: 5_000_000, retry_after: None };
    let mut patterns = Patterns::default();
    let mut nanos: Vec<u128> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            for _ in 0..AT_ONCE {
                black_box(decide(black_box(&settings), black_box(&failed), &mut patterns, 0.5));
            }
            began.elapsed().as_nanos() / AT_ONCE as u128
        })
        .collect();
    assert_eq!(decide(&settings, &failed, &mut patterns, 0.5).rule as usize, RULES);
    nanos.sort_unstable();
    let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!(
        "{{\"scenario\":\"retry-decision\",\"rules\":{RULES},\"runs\":{RUNS},\"p50_us\":{},\"p99_us\":{}}}",
        at(0.5),
        at(0.99)
    );
}
