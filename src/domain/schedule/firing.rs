//! What becomes of the ticks of a schedule that are due: which make a task, which are skipped, missed or caught up, and
//! when to look again. Whoever asks at the same time with the same facts decides the same.

use super::{CatchUp, CatchUpPolicy, HORIZON, OccurrenceState, Overlap, Plan, Progress, Schedule};
use crate::domain::task::{Micros, SECOND};

/// A tick that is up to this late fires as if it were on time: longer than a replica that died, a restart of the database or
/// a burst of schedules needs.
pub const GRACE: Micros = 60 * SECOND;
/// Most ticks of one schedule that are decided in one transaction. A longer backlog is worked off in several.
pub const MAX_TICKS: usize = 1_000;
/// How often a tick that waits for the task before looks whether that has ended.
const QUEUE_LOOK: Micros = SECOND;

/// What is to be done about a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of each tick, in order.
    pub steps: Vec<Step>,
    /// Where the schedule stands afterwards. Which task it made last is for whoever makes it to fill in.
    pub progress: Progress,
}

/// What becomes of one tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The tick.
    pub tick: Micros,
    /// What becomes of it; a state that made a task if it is to make one.
    pub state: OccurrenceState,
    /// Why, if it does not simply fire.
    pub reason: String,
    /// The task of the firing before is to be cancelled.
    pub cancels_previous: bool,
}

/// Decides about the ticks that are due at `now`. `previous_is_open`: the task of the last firing is not final.
pub fn decide(schedule: &Schedule, plan: &Plan, mut previous_is_open: bool, now: Micros) -> Decision {
    let mut progress = schedule.progress.clone();
    let mut steps = Vec::new();
    if let Some(tick) = progress.queued.filter(|_| !previous_is_open) {
        let reason = "it waited for the task before to end".to_owned();
        steps.push(Step { tick, state: OccurrenceState::Fired, reason, cancels_previous: false });
        progress.queued = None;
        previous_is_open = true;
    }

    let Due { forgotten, ticks, count } = due(plan, &progress, schedule.settings.catch_up, now);
    if let Some((first, until)) = forgotten {
        let until = plan.local(until);
        let reason = format!("so are all ticks from this one until {until}: nothing fired them for 31 days");
        steps.push(Step { tick: first, state: OccurrenceState::Missed, reason, cancels_previous: false });
    }
    for (place, &tick) in ticks.iter().enumerate().take(count) {
        let lateness = now - plan.run_time(tick);
        let is_late = |place: usize| ticks.get(place).is_some_and(|tick| now - plan.run_time(*tick) > GRACE);
        let late = is_late(place).then(|| late(schedule.settings.catch_up, lateness, |ahead| is_late(place + ahead)));
        let (state, reason) = match late {
            Some(Err(reason)) => (OccurrenceState::Missed, reason),
            Some(Ok(())) => (OccurrenceState::CaughtUp, format!("{} s late", lateness / SECOND)),
            None => (OccurrenceState::Fired, String::new()),
        };
        let mut step = Step { tick, state, reason, cancels_previous: false };
        if state.made_task() && previous_is_open {
            match schedule.settings.overlap {
                Overlap::Allow => {}
                Overlap::CancelPrevious => step.cancels_previous = true,
                Overlap::QueueOne if progress.queued.is_none() => {
                    progress.queued = Some(tick);
                    continue;
                }
                Overlap::QueueOne => {
                    skip(&mut step, "the task before is not final, and another tick waits for its end")
                }
                Overlap::Skip => skip(&mut step, "the task before is not final"),
            }
        }
        previous_is_open |= step.state.made_task();
        steps.push(step);
    }

    let decided = ticks.get(..count).and_then(<[Micros]>::last).copied();
    let decided = decided.or(forgotten.map(|(_, until)| until)).unwrap_or(progress.decided);
    let mut progress = plan.moved_to(decided, progress);
    if progress.queued.is_some() {
        let look = now + QUEUE_LOOK;
        progress.wake_time = Some(progress.wake_time.map_or(look, |wake| wake.min(look)));
    }
    Decision { steps, progress }
}

fn skip(step: &mut Step, reason: &str) {
    step.state = OccurrenceState::Skipped;
    reason.clone_into(&mut step.reason);
}

/// Whether a late tick fires all the same, or why not. `is_late` asks about the ticks after it.
fn late(catch_up: CatchUp, lateness: Micros, is_late: impl Fn(usize) -> bool) -> Result<(), String> {
    let CatchUp { policy, max_count, window } = catch_up;
    let by = lateness / SECOND;
    if policy == CatchUpPolicy::Skip {
        return Err(format!("{by} s late, and catch_up says SKIP"));
    }
    if lateness > window {
        return Err(format!("{by} s late, which is beyond the window of catch_up"));
    }
    let kept = if policy == CatchUpPolicy::Last { 1 } else { usize::try_from(max_count).unwrap_or(1) };
    if is_late(kept) {
        return Err(format!("{by} s late, and the latest {kept} are caught up"));
    }
    Ok(())
}

/// The ticks that are due.
struct Due {
    /// The first of those beyond the horizon, and up to when they are passed over.
    forgotten: Option<(Micros, Micros)>,
    /// Those to decide about, and some after them to compare with.
    ticks: Vec<Micros>,
    /// How many are to be decided about.
    count: usize,
}

fn due(plan: &Plan, progress: &Progress, catch_up: CatchUp, now: Micros) -> Due {
    let is_due = |tick: &Micros| plan.run_time(*tick) <= now;
    let mut tick = plan.next_after(progress.decided).filter(is_due);
    let horizon = now - HORIZON;
    let forgotten = tick.filter(|tick| *tick < horizon).map(|first| (first, horizon));
    if forgotten.is_some() {
        tick = plan.next_after(horizon).filter(is_due);
    }
    let ahead = usize::try_from(catch_up.max_count).unwrap_or(1);
    let mut ticks = Vec::new();
    while let Some(due) = tick.filter(|_| ticks.len() < MAX_TICKS + ahead) {
        ticks.push(due);
        tick = plan.next_after(due).filter(is_due);
    }
    let count = ticks.len().min(MAX_TICKS);
    Due { forgotten, ticks, count }
}

/// The ticks that are due and not to be fired, because the schedule changes. Up to [`MAX_TICKS`].
pub fn settle(schedule: &Schedule, plan: &Plan, now: Micros, reason: &str) -> Vec<Step> {
    let progress = &schedule.progress;
    let Due { ticks, count, .. } = due(plan, progress, schedule.settings.catch_up, now);
    let step = |tick: Micros| {
        let (state, reason) = (OccurrenceState::Skipped, reason.to_owned());
        Step { tick, state, reason, cancels_previous: false }
    };
    ticks.into_iter().take(count).map(step).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::{
        super::{Settings, Template, Timing},
        *,
    };
    use crate::{
        domain::{retry::Retry, task::Spec},
        ids::ProjectId,
    };

    const MINUTE: Micros = 60 * SECOND;

    fn schedule(overlap: Overlap, policy: CatchUpPolicy, decided: Micros) -> (Schedule, Plan) {
        let timing = Timing {
            cron: "* * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            start_time: None,
            end_time: None,
            jitter: 0,
        };
        let spec = Spec {
            task_type: "t".to_owned(),
            queue: "q".to_owned(),
            priority: 0,
            timeout: 1,
            expire_time: None,
            retry: Retry::Unsaid,
            unique_key: None,
            unique_ttl: None,
            labels: std::collections::BTreeMap::new(),
            owner: String::new(),
            create_time: 0,
            open_time: None,
        };
        let plan = Plan::new(&timing, Uuid::nil()).unwrap();
        let settings = Settings {
            display_name: String::new(),
            description: String::new(),
            timing,
            template: Template { spec: Arc::new(spec), input: None },
            overlap,
            catch_up: CatchUp { policy, max_count: 3, window: 20 * MINUTE },
            paused: false,
            pause_note: String::new(),
        };
        let schedule = Schedule {
            project: ProjectId::new("p"),
            id: "s".to_owned(),
            uid: Uuid::nil(),
            owner: "o".to_owned(),
            settings,
            progress: plan.moved_to(decided, Progress::default()),
            create_time: 0,
            update_time: 0,
        };
        (schedule, plan)
    }

    /// States of the steps, as one letter each.
    fn letters(steps: &[Step]) -> String {
        let letter = |step: &Step| match step.state {
            OccurrenceState::Fired if step.cancels_previous => 'X',
            OccurrenceState::Fired => 'F',
            OccurrenceState::Skipped => 'S',
            OccurrenceState::Missed => 'M',
            OccurrenceState::CaughtUp => 'C',
            OccurrenceState::Manual | OccurrenceState::Backfilled => '?',
        };
        steps.iter().map(letter).collect()
    }

    #[test]
    fn a_tick_fires_when_it_is_due_and_the_next_is_planned_from_it() {
        let (schedule, plan) = schedule(Overlap::Allow, CatchUpPolicy::Last, 0);
        assert_eq!(decide(&schedule, &plan, false, MINUTE - 1).steps, []);
        let Decision { steps, progress } = decide(&schedule, &plan, false, MINUTE + 7 * SECOND);
        assert_eq!((letters(&steps).as_str(), steps[0].tick), ("F", MINUTE));
        assert_eq!((progress.decided, progress.next_tick), (MINUTE, Some(2 * MINUTE)));
        assert_eq!(progress.wake_time, Some(2 * MINUTE));
    }

    #[test]
    fn late_ticks_go_by_the_catch_up_policy() {
        // Ticks of the minutes 1 to 30; those up to 29 are more than a minute late.
        let now = 30 * MINUTE + SECOND;
        for (policy, caught_up) in [(CatchUpPolicy::Skip, 0), (CatchUpPolicy::Last, 1), (CatchUpPolicy::All, 3)] {
            let (schedule, plan) = schedule(Overlap::Allow, policy, 0);
            let Decision { steps, progress } = decide(&schedule, &plan, false, now);
            let expected = format!("{}{}F", "M".repeat(29 - caught_up), "C".repeat(caught_up));
            assert_eq!(letters(&steps), expected, "{policy:?}");
            assert!(steps.iter().all(|step| step.reason.is_empty() == (step.state == OccurrenceState::Fired)));
            assert_eq!(progress.next_tick, Some(31 * MINUTE));
        }
    }

    #[test]
    fn nothing_is_caught_up_beyond_the_window() {
        let (mut schedule, plan) = schedule(Overlap::Allow, CatchUpPolicy::All, 0);
        schedule.settings.catch_up = CatchUp { policy: CatchUpPolicy::All, max_count: 1_000, window: 5 * MINUTE };
        let Decision { steps, .. } = decide(&schedule, &plan, false, 10 * MINUTE);
        // Minute 5 is 5 minutes late, 9 and 10 are in time.
        assert_eq!(letters(&steps), "MMMMCCCCFF");
    }

    #[test]
    fn a_long_backlog_is_worked_off_in_several_steps_and_the_last_is_still_the_last() {
        let (mut schedule, plan) = schedule(Overlap::Allow, CatchUpPolicy::Last, 0);
        schedule.settings.catch_up.window = HORIZON;
        let now = 2_500 * MINUTE;
        let mut all = String::new();
        let mut rounds = 0;
        while schedule.progress.wake_time.unwrap() <= now {
            let Decision { steps, progress } = decide(&schedule, &plan, false, now);
            assert!(steps.len() <= MAX_TICKS);
            all.push_str(&letters(&steps));
            schedule.progress = progress;
            rounds += 1;
        }
        assert_eq!((rounds, all.len()), (3, 2_500));
        assert_eq!(all.trim_start_matches('M'), "CFF");
    }

    #[test]
    fn what_is_beyond_the_horizon_is_missed_as_a_whole() {
        let (schedule, plan) = schedule(Overlap::Allow, CatchUpPolicy::Skip, 0);
        let now = HORIZON + 1_000_000 * MINUTE;
        let Decision { steps, progress } = decide(&schedule, &plan, false, now);
        assert_eq!(steps[0].tick, MINUTE);
        assert!(steps[0].reason.contains("all ticks from this one"));
        assert_eq!(steps[1].tick, 1_000_001 * MINUTE);
        assert_eq!(progress.decided, steps.last().unwrap().tick);
    }

    #[test]
    fn overlap_is_decided_tick_by_tick() {
        // Two ticks, both on time.
        let now = 2 * MINUTE;
        for (overlap, open, expected, queued) in [
            (Overlap::Allow, true, "FF", None),
            (Overlap::Skip, true, "SS", None),
            (Overlap::Skip, false, "FS", None),
            (Overlap::QueueOne, true, "S", Some(MINUTE)),
            (Overlap::QueueOne, false, "F", Some(2 * MINUTE)),
            (Overlap::CancelPrevious, true, "XX", None),
            (Overlap::CancelPrevious, false, "FX", None),
        ] {
            let (schedule, plan) = schedule(overlap, CatchUpPolicy::All, 0);
            let Decision { steps, progress } = decide(&schedule, &plan, open, now);
            assert_eq!((letters(&steps).as_str(), progress.queued), (expected, queued), "{overlap:?}, open {open}");
        }
    }

    #[test]
    fn a_queued_tick_fires_first_once_the_task_before_has_ended() {
        let (mut schedule, plan) = schedule(Overlap::QueueOne, CatchUpPolicy::Last, 0);
        schedule.progress.queued = Some(MINUTE);
        schedule.progress = plan.moved_to(MINUTE, schedule.progress);
        let now = MINUTE + 30 * SECOND;
        let waits = decide(&schedule, &plan, true, now);
        assert_eq!((waits.steps.len(), waits.progress.wake_time), (0, Some(now + QUEUE_LOOK)));
        let fires = decide(&schedule, &plan, false, now);
        assert_eq!((letters(&fires.steps).as_str(), fires.steps[0].tick), ("F", MINUTE));
        assert_eq!((fires.progress.queued, fires.progress.wake_time), (None, Some(2 * MINUTE)));
        // The tick of the second minute finds that one open, and waits in its turn.
        let both = decide(&schedule, &plan, false, 2 * MINUTE);
        assert_eq!((letters(&both.steps).as_str(), both.progress.queued), ("F", Some(2 * MINUTE)));
        let settled = settle(&schedule, &plan, 2 * MINUTE, "paused");
        assert_eq!((letters(&settled).as_str(), settled[0].tick), ("S", 2 * MINUTE));
    }
}
