//! The places on the write path where a test can step in.
//!
//! `TASKTOWER_FAILPOINTS="before_commit=abort@1/50;after_commit=error@7"` says what happens where and when:
//!
//! | action | what it does |
//! |---|---|
//! | `abort` | the process ends at once, as by SIGABRT; nothing is cleaned up |
//! | `error` | the step fails as if the connection had broken; only at the points of the store |
//! | `pause` | the step waits for ever, or for as long as its file is there |
//! | `delay:MS` | the step waits so many milliseconds |
//!
//! | when | it happens |
//! |---|---|
//! | `@7` | the seventh time the point is passed, once |
//! | `@1/50` | each time with this probability, drawn from `TASKTOWER_FAILPOINTS_SEED` (0 unless set) |
//! | `@/path` | each time for as long as this file exists: a test arms it while the server runs |
//!
//! A fault that happens is one line on stderr, `failpoint POINT: ACTION`, so that a test can see that it did. Whatever
//! is not understood ends the process at the first point: a test with a typing error must not pass.

/// A place on the write path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before a write transaction begins.
    BeforeBegin,
    /// After BEGIN was answered.
    AfterBegin,
    /// Everything is written; COMMIT is not sent.
    BeforeCommit,
    /// COMMIT was answered. An error here is an answer that was lost.
    AfterCommit,
    /// A batch is durable; nobody was answered yet.
    BeforeReply,
    /// Everybody was answered; watchers were not told yet.
    BeforePublish,
    /// Watchers were told.
    AfterPublish,
}

impl Point {
    /// All of them, in the order in which a batch passes them.
    pub const ALL: [Point; 7] = [
        Point::BeforeBegin,
        Point::AfterBegin,
        Point::BeforeCommit,
        Point::AfterCommit,
        Point::BeforeReply,
        Point::BeforePublish,
        Point::AfterPublish,
    ];

    /// As the environment spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeBegin => "before_begin",
            Self::AfterBegin => "after_begin",
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::BeforeReply => "before_reply",
            Self::BeforePublish => "before_publish",
            Self::AfterPublish => "after_publish",
        }
    }

    /// Whether the step after it can fail.
    pub const fn can_fail(self) -> bool {
        matches!(self, Self::BeforeBegin | Self::AfterBegin | Self::BeforeCommit | Self::AfterCommit)
    }

    /// Does nothing: this program was built without failpoints.
    #[cfg(not(feature = "failpoints"))]
    #[inline(always)]
    #[allow(clippy::unused_async, reason = "it waits where there are failpoints")]
    pub async fn pass(self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Does what the environment says. An error only where [`Point::can_fail`].
    #[cfg(feature = "failpoints")]
    pub async fn pass(self) -> anyhow::Result<()> {
        armed::pass(self).await
    }
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::{
        path::PathBuf,
        sync::{
            LazyLock, Mutex, PoisonError,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use anyhow::{Context as _, bail};
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::Point;

    const FAILPOINTS: &str = "TASKTOWER_FAILPOINTS";
    const SEED: &str = "TASKTOWER_FAILPOINTS_SEED";
    /// How often a pause looks whether its file is gone.
    const LOOK_EVERY: Duration = Duration::from_millis(10);

    #[derive(Debug)]
    struct Fault {
        point: Point,
        action: Action,
        when: When,
        passed: AtomicU64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Abort,
        Error,
        Pause,
        Delay(Duration),
    }

    #[derive(Debug, PartialEq)]
    enum When {
        /// This time, counted from one.
        Time(u64),
        /// One time of so many.
        OneOf(u32),
        WhileThere(PathBuf),
    }

    struct Armed {
        faults: Vec<Fault>,
        random: Mutex<StdRng>,
    }

    static ARMED: LazyLock<Armed> = LazyLock::new(|| {
        let text = std::env::var(FAILPOINTS).unwrap_or_default();
        let faults = parse(&text).unwrap_or_else(|cause| not_understood(&format!("{FAILPOINTS}: {cause:#}")));
        let seed = std::env::var(SEED).map_or(Ok(0), |seed| seed.parse());
        let seed = seed.unwrap_or_else(|cause| not_understood(&format!("{SEED}: {cause}")));
        Armed { faults, random: Mutex::new(StdRng::seed_from_u64(seed)) }
    });

    fn not_understood(what: &str) -> ! {
        eprintln!("failpoints: {what}");
        std::process::abort()
    }

    pub(super) async fn pass(point: Point) -> anyhow::Result<()> {
        for fault in ARMED.faults.iter().filter(|fault| fault.point == point) {
            if fault.happens() {
                fault.strike().await?;
            }
        }
        Ok(())
    }

    impl Fault {
        fn happens(&self) -> bool {
            let passed = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
            match &self.when {
                When::Time(time) => passed == *time,
                When::OneOf(many) => {
                    let mut random = ARMED.random.lock().unwrap_or_else(PoisonError::into_inner);
                    random.random_range(0..*many) == 0
                }
                When::WhileThere(path) => path.exists(),
            }
        }

        async fn strike(&self) -> anyhow::Result<()> {
            // Not through the log, which may be filtered or written later.
            eprintln!("failpoint {}: {:?}", self.point.name(), self.action);
            match self.action {
                Action::Abort => std::process::abort(),
                Action::Error => bail!("failpoint {}", self.point.name()),
                Action::Delay(time) => tokio::time::sleep(time).await,
                Action::Pause => match &self.when {
                    When::WhileThere(path) => {
                        while path.exists() {
                            tokio::time::sleep(LOOK_EVERY).await;
                        }
                    }
                    _ => std::future::pending().await,
                },
            }
            Ok(())
        }
    }

    fn parse(text: &str) -> anyhow::Result<Vec<Fault>> {
        text.split(';')
            .filter(|part| !part.is_empty())
            .map(|part| fault(part).with_context(|| part.to_owned()))
            .collect()
    }

    fn fault(text: &str) -> anyhow::Result<Fault> {
        let (point, rest) = text.split_once('=').context("no `=`")?;
        let (action, when) = rest.split_once('@').context("no `@`")?;
        let point = Point::ALL.into_iter().find(|p| p.name() == point).context("no such point")?;
        let action = match action.split_once(':') {
            None if action == "abort" => Action::Abort,
            None if action == "error" && point.can_fail() => Action::Error,
            None if action == "error" => bail!("this point cannot fail"),
            None if action == "pause" => Action::Pause,
            Some(("delay", millis)) => Action::Delay(Duration::from_millis(millis.parse().context("the delay")?)),
            _ => bail!("no such action"),
        };
        let when = match when.strip_prefix("1/") {
            Some(many) => When::OneOf(many.parse().ok().filter(|many| *many > 0).context("the probability")?),
            None if when.starts_with('/') => When::WhileThere(when.into()),
            None => When::Time(when.parse().ok().filter(|time| *time > 0).context("the time")?),
        };
        Ok(Fault { point, action, when, passed: AtomicU64::new(0) })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_the_environment_says_is_read() {
            let faults = parse("before_commit=abort@1/50;after_commit=error@7;after_begin=pause@/a/b").unwrap();
            let told: Vec<_> = faults.iter().map(|fault| (fault.point, fault.action, &fault.when)).collect();
            assert_eq!(told[0], (Point::BeforeCommit, Action::Abort, &When::OneOf(50)));
            assert_eq!(told[1], (Point::AfterCommit, Action::Error, &When::Time(7)));
            assert_eq!(told[2], (Point::AfterBegin, Action::Pause, &When::WhileThere("/a/b".into())));
            assert!(parse("").unwrap().is_empty());
        }

        #[test]
        fn what_is_not_understood_is_an_error() {
            for text in [
                "before_commit",
                "before_commit=abort",
                "nowhere=abort@1",
                "before_commit=explode@1",
                "before_reply=error@1",
                "before_commit=abort@0",
                "before_commit=abort@1/0",
                "before_commit=delay:x@1",
            ] {
                assert!(parse(text).is_err(), "{text}");
            }
        }
    }
}
