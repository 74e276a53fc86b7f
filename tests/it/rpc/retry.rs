//! `RetryService`: policies, what they decide about failed attempts, and what is said of failures of the past.

use std::time::Duration;

use tasktower::pb::{
    self, RetryBackoff, RetryJitter, RetryRule, RetrySettings,
    retry_decision::{Cause, Verdict},
    retry_rule::{Action, Message},
    task::State,
};
use tonic::Code;

use super::{Rpc, refused, seconds, task, token};
use crate::support::{
    backend::{Backend, Database, for_each_backend},
    wait::{eventually, pause},
};

const POLICY: &str = "projects/default/retryPolicies/mail";
/// How long a server may remember policies that another one has changed.
const REMEMBERED: Duration = Duration::from_millis(1_100);

fn rule(error_type: &str, action: Action) -> RetryRule {
    RetryRule { error_type: error_type.into(), action: Some(action), ..Default::default() }
}

fn dead_letter() -> Action {
    Action::DeadLetter(pb::RetryDeadLetter {})
}

/// After exactly so long.
fn exactly(wait: i64) -> Action {
    Action::Backoff(RetryBackoff {
        delays: vec![seconds(wait)],
        jitter: RetryJitter::None.into(),
        ..Default::default()
    })
}

/// 1: a wrong address is the end. 2: a busy server is waited for. 3: the first two time-outs. Else the back-off.
fn mail() -> RetrySettings {
    let wrong = RetryRule {
        message: Some(Message::MessageRegex(r"^55\d ".into())),
        description: "no such address".into(),
        ..rule("Smtp*", dead_letter())
    };
    let busy = RetryRule {
        message: Some(Message::MessageContains("try later".into())),
        ..rule("", Action::Snooze(seconds(600)))
    };
    let slow = RetryRule { last_attempt: 2, ..rule("TIMEOUT", exactly(60)) };
    RetrySettings {
        max_attempts: 3,
        initial_backoff: Some(seconds(30)),
        jitter: RetryJitter::Equal.into(),
        rules: vec![wrong, busy, slow],
        max_age: Some(seconds(86_400)),
        max_crashes: 2,
        ..Default::default()
    }
}

impl Rpc {
    async fn make_policy(&self, id: &str, policy: pb::RetryPolicy) -> pb::RetryPolicy {
        let request = pb::CreateRetryPolicyRequest {
            retry_policy_id: id.into(),
            retry_policy: Some(policy),
            ..Default::default()
        };
        self.clients.retries().create_retry_policy(request).await.expect("made").into_inner().retry_policy.expect("it")
    }

    /// Leases a task and fails it; answers the attempt as it is kept.
    async fn fail_with(&self, error_type: &str, message: &str, retry_after: Option<i64>) -> pb::Attempt {
        let leased = self.lease(1).await.pop().expect("a due task");
        let error = pb::TaskError { r#type: error_type.into(), message: message.into(), ..Default::default() };
        let failure = pb::TaskFailure {
            token: leased.token.clone(),
            error: Some(error),
            r#final: false,
            retry_after: retry_after.map(seconds),
        };
        let request = pb::FailTasksRequest { failures: vec![failure], ..Default::default() };
        let answer = self.clients.workers().fail_tasks(request).await.expect("reported").into_inner();
        assert_eq!(answer.results.iter().map(super::code).collect::<Vec<_>>(), [Code::Ok]);
        self.last_attempt(&leased.task.expect("a task").name).await
    }

    async fn last_attempt(&self, task: &str) -> pb::Attempt {
        let request = pb::ListAttemptsRequest { parent: task.into(), ..Default::default() };
        let attempts = self.clients.tasks().list_attempts(request).await.expect("attempts").into_inner().attempts;
        attempts.last().cloned().expect("an attempt")
    }

    async fn run_now(&self, name: &str) {
        let request = pb::RunTaskNowRequest { name: name.into(), ..Default::default() };
        self.clients.tasks().run_task_now(request).await.expect("due now");
    }
}

fn policy(settings: RetrySettings) -> pb::RetryPolicy {
    pb::RetryPolicy { settings: Some(settings), ..Default::default() }
}

/// Verdict, cause, rule and version.
fn decided(decision: Option<&pb::RetryDecision>) -> (Verdict, Cause, i32, i64) {
    let decision = decision.expect("a decision");
    (decision.verdict(), decision.cause(), decision.rule, decision.retry_policy_version)
}

/// Seconds from the end of an attempt to the next.
fn wait_of(attempt: &pb::Attempt) -> Option<f64> {
    let micros = |time: prost_types::Timestamp| time.seconds as f64 + f64::from(time.nanos) / 1e9;
    Some(micros(attempt.retry_time?) - micros(attempt.end_time?))
}

#[tokio::test]
async fn a_policy_is_made_read_changed_and_deleted() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut retries = rpc.clients.retries();
        let content = pb::RetryPolicy {
            description: "mail servers".into(),
            task_types: vec!["b".into(), "a".into(), "b".into()],
            ..policy(mail())
        };
        let made = rpc.make_policy("mail", content.clone()).await;
        assert_eq!((made.name.as_str(), made.version), (POLICY, 1));
        assert_eq!(made.task_types, ["a", "b"]);
        let kept = made.settings.clone().unwrap();
        assert_eq!((kept.max_attempts, kept.max_crashes, kept.rules.len()), (3, 2, 3));
        assert_eq!(kept.rules[0].description, "no such address");

        let get = pb::GetRetryPolicyRequest { name: POLICY.into() };
        let read = retries.get_retry_policy(get.clone()).await.unwrap().into_inner().retry_policy;
        assert_eq!(read.as_ref(), Some(&made));

        let create = |id: &str, policy| pb::CreateRetryPolicyRequest {
            retry_policy_id: id.into(),
            retry_policy: Some(policy),
            ..Default::default()
        };
        let again = retries.create_retry_policy(create("mail", content)).await;
        refused(again, Code::AlreadyExists, "RESOURCE_EXISTS", &[]);
        let taken = pb::RetryPolicy { task_types: vec!["x".into(), "b".into()], ..Default::default() };
        let taken = retries.create_retry_policy(create("other", taken)).await;
        refused(taken, Code::InvalidArgument, "FIELD_INVALID", &["retry_policy.task_types"]);
        let bad_id = retries.create_retry_policy(create("Mail", pb::RetryPolicy::default())).await;
        refused(bad_id, Code::InvalidArgument, "FIELD_INVALID", &["retry_policy_id"]);
        let regex = RetryRule { message: Some(Message::MessageRegex("a(b".into())), ..Default::default() };
        let broken = policy(RetrySettings { rules: vec![regex], ..Default::default() });
        let status = refused(
            retries.create_retry_policy(create("broken", broken)).await,
            Code::InvalidArgument,
            "FIELD_INVALID",
            &["retry_policy.settings.rules[0].message_regex"],
        );
        assert!(status.message().contains("column 2: unclosed group"), "{status:?}");

        let update = |policy: pb::RetryPolicy, paths: &[&str]| pb::UpdateRetryPolicyRequest {
            retry_policy: Some(pb::RetryPolicy { name: POLICY.into(), ..policy }),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() }),
        };
        let same = update(pb::RetryPolicy { description: "mail servers".into(), ..Default::default() }, &[]);
        let same = retries.update_retry_policy(same).await.unwrap().into_inner().retry_policy.unwrap();
        assert_eq!(same, made, "what changes nothing leaves the version alone");
        let change = pb::RetryPolicy { etag: made.etag.clone(), ..Default::default() };
        let changed = retries.update_retry_policy(update(change.clone(), &["task_types"])).await.unwrap();
        let changed = changed.into_inner().retry_policy.unwrap();
        assert_eq!((changed.version, changed.task_types.len(), &changed.settings), (2, 0, &made.settings));
        assert_ne!(changed.etag, made.etag);
        let stale = retries.update_retry_policy(update(change, &["description"])).await;
        refused(stale, Code::Aborted, "ETAG_MISMATCH", &[]);

        for id in ["one", "two"] {
            rpc.make_policy(id, pb::RetryPolicy::default()).await;
        }
        let list = |page_token| pb::ListRetryPoliciesRequest { page_size: 2, page_token, ..Default::default() };
        let page = retries.list_retry_policies(list(String::new())).await.unwrap().into_inner();
        let ids = |page: &[pb::RetryPolicy]| page.iter().map(|policy| policy.name.clone()).collect::<Vec<_>>();
        let one = POLICY.replace("mail", "one");
        assert_eq!(ids(&page.retry_policies), [POLICY, &one]);
        assert_eq!(page.retry_policies[0], changed);
        let rest = retries.list_retry_policies(list(page.next_page_token)).await.unwrap().into_inner();
        assert_eq!((rest.retry_policies.len(), rest.next_page_token.as_str()), (1, ""));

        let delete =
            |allow_missing| pb::DeleteRetryPolicyRequest { name: POLICY.into(), allow_missing, ..Default::default() };
        let queue = |retry_policy: &str| pb::UpdateQueueRequest {
            queue: Some(pb::Queue {
                name: "projects/default/queues/q".into(),
                retry_policy: retry_policy.into(),
                ..Default::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["retry_policy".into()] }),
        };
        let mut queues = rpc.clients.queues();
        let missing = queues.update_queue(queue("projects/default/retryPolicies/none")).await;
        refused(missing, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let of_queue = queues.update_queue(queue(POLICY)).await.unwrap().into_inner().queue.unwrap();
        assert_eq!(of_queue.retry_policy, POLICY);
        refused(retries.delete_retry_policy(delete(false)).await, Code::FailedPrecondition, "STATE_CONFLICT", &[]);
        queues.update_queue(queue("")).await.unwrap();
        retries.delete_retry_policy(delete(false)).await.unwrap();
        refused(retries.get_retry_policy(get).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        refused(retries.delete_retry_policy(delete(false)).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        retries.delete_retry_policy(delete(true)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_first_rule_that_matches_decides_and_each_attempt_says_which() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        rpc.make_policy("mail", policy(mail())).await;
        let named = || pb::Task { retry_policy: POLICY.into(), ..task("t") };

        let name = rpc.submit(named()).await;
        assert_eq!(rpc.get(&name).await.retry_policy, POLICY);
        let attempt = rpc.fail_with("SmtpError", "550 no such user", None).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()), (Verdict::DeadLetter, Cause::Rule, 1, 1));
        assert_eq!(attempt.retry_decision.unwrap().retry_policy, POLICY);
        assert_eq!(rpc.get(&name).await.state(), State::Failed);

        let name = rpc.submit(named()).await;
        let attempt = rpc.fail_with("SmtpError", "451 try later", None).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()), (Verdict::Snooze, Cause::Rule, 2, 1));
        assert_eq!((attempt.number, wait_of(&attempt)), (1, Some(600.0)));
        let snoozed = rpc.get(&name).await;
        assert_eq!((snoozed.state(), snoozed.attempt_count), (State::Retrying, 0), "a snooze uses up no attempt");
        // The third of its attempts that count is the last, whatever was snoozed.
        for number in 1..=3 {
            rpc.run_now(&name).await;
            let attempt = rpc.fail_with("Other", "", None).await;
            assert_eq!(attempt.number, number);
            let expected = match number {
                3 => (Verdict::DeadLetter, Cause::MaxAttempts, 0, 1),
                _ => (Verdict::Retry, Cause::Default, 0, 1),
            };
            assert_eq!(decided(attempt.retry_decision.as_ref()), expected);
            if number < 3 {
                let bound = f64::from(30 * number);
                let wait = wait_of(&attempt).unwrap();
                assert!((bound / 2.0..=bound).contains(&wait), "{wait} after attempt {number}");
            }
        }
        assert_eq!(rpc.get(&name).await.state(), State::Failed);

        // What the worker asks for is the least; a rule's own wait may be longer.
        rpc.submit(named()).await;
        let attempt = rpc.fail_with("TIMEOUT", "", Some(10)).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()), (Verdict::Retry, Cause::Rule, 3, 1));
        assert_eq!(wait_of(&attempt), Some(60.0));
        rpc.submit(named()).await;
        let wait = wait_of(&rpc.fail_with("Other", "", Some(3_600)).await).unwrap();
        assert!((3_600.0..=3_630.0).contains(&wait), "{wait}");
        // The next attempt would come after the age limit.
        let name = rpc.submit(named()).await;
        let attempt = rpc.fail_with("Other", "", Some(86_399)).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()).0, Verdict::Retry);
        rpc.run_now(&name).await;
        let attempt = rpc.fail_with("Other", "", Some(86_401)).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()), (Verdict::DeadLetter, Cause::MaxAge, 0, 1));

        // An error that the worker calls final asks nobody.
        let name = rpc.submit(named()).await;
        let leased = rpc.lease(1).await;
        rpc.fail(token(&leased[0])).await;
        let attempt = rpc.last_attempt(&name).await;
        assert_eq!(decided(attempt.retry_decision.as_ref()), (Verdict::DeadLetter, Cause::Final, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn the_nearest_that_says_something_about_retries_holds() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let only = |wait| policy(RetrySettings { rules: vec![rule("", exactly(wait))], ..Default::default() });
        rpc.make_policy("of-type", pb::RetryPolicy { task_types: vec!["t".into()], ..only(100) }).await;
        rpc.make_policy("of-queue", only(200)).await;
        rpc.make_policy("of-task", only(300)).await;
        let name = |id: &str| format!("projects/default/retryPolicies/{id}");
        let waited = async |task: pb::Task| {
            rpc.submit(task).await;
            wait_of(&rpc.fail_with("E", "", None).await).unwrap() as i64
        };
        assert_eq!(waited(task("t")).await, 100);
        let update = pb::Queue {
            name: "projects/default/queues/default".into(),
            retry_policy: name("of-queue"),
            ..Default::default()
        };
        let update = pb::UpdateQueueRequest { queue: Some(update), update_mask: None };
        rpc.clients.queues().update_queue(update).await.unwrap();
        assert_eq!(waited(task("t")).await, 200);
        assert_eq!(waited(pb::Task { retry_policy: name("of-task"), ..task("t") }).await, 300);
        let own = RetrySettings { rules: vec![rule("", exactly(400))], ..Default::default() };
        assert_eq!(waited(pb::Task { retry: Some(own.clone()), ..task("t") }).await, 400);

        // A change holds for what fails after it; a policy that is gone says nothing.
        let change = pb::RetryPolicy { name: name("of-task"), ..only(350) };
        let change = pb::UpdateRetryPolicyRequest { retry_policy: Some(change), update_mask: None };
        rpc.clients.retries().update_retry_policy(change).await.unwrap();
        let held = rpc.submit(pb::Task { retry_policy: name("of-task"), ..task("t") }).await;
        let attempt = rpc.fail_with("E", "", None).await;
        assert_eq!((wait_of(&attempt).unwrap() as i64, decided(attempt.retry_decision.as_ref()).3), (350, 2));
        let delete = pb::DeleteRetryPolicyRequest { name: name("of-task"), ..Default::default() };
        rpc.clients.retries().delete_retry_policy(delete).await.unwrap();
        rpc.run_now(&held).await;
        let attempt = rpc.fail_with("E", "", None).await;
        assert_eq!(wait_of(&attempt).unwrap() as i64, 200, "then that of its queue holds");

        // What a task says can be changed while it waits, to one or the other.
        let update = |task: pb::Task, path: &str| pb::UpdateTaskRequest {
            task: Some(pb::Task { name: held.clone(), ..task }),
            update_mask: Some(prost_types::FieldMask { paths: vec![path.into()] }),
        };
        let mut tasks = rpc.clients.tasks();
        tasks.update_task(update(pb::Task { retry: Some(own.clone()), ..Default::default() }, "retry")).await.unwrap();
        let changed = rpc.get(&held).await;
        assert_eq!((changed.retry.unwrap().rules.len(), changed.retry_policy.as_str()), (1, ""));
        let named = pb::Task { retry_policy: name("of-type"), ..Default::default() };
        tasks.update_task(update(named, "retry_policy")).await.unwrap();
        let changed = rpc.get(&held).await;
        assert_eq!((changed.retry, changed.retry_policy), (None, name("of-type")));

        // Bad names and too much of a task's own.
        let submit = |task| pb::SubmitTaskRequest { task: Some(task), ..Default::default() };
        let gone = tasks.submit_task(submit(pb::Task { retry_policy: name("of-task"), ..task("t") })).await;
        refused(gone, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let foreign = pb::Task { retry_policy: "projects/other/retryPolicies/x".into(), ..task("t") };
        let foreign = tasks.submit_task(submit(foreign)).await;
        refused(foreign, Code::InvalidArgument, "FIELD_INVALID", &["task.retry_policy"]);
        let both = pb::Task { retry: Some(own), retry_policy: name("of-type"), ..task("t") };
        refused(tasks.submit_task(submit(both)).await, Code::InvalidArgument, "FIELD_INVALID", &["task.retry_policy"]);
        let long = RetryRule { description: "x".repeat(100), ..Default::default() };
        let long = RetrySettings { rules: vec![long; 50], ..Default::default() };
        let long = tasks.submit_task(submit(pb::Task { retry: Some(long), ..task("t") })).await;
        refused(long, Code::InvalidArgument, "FIELD_INVALID", &["task.retry"]);
    })
    .await;
}

#[tokio::test]
async fn a_change_of_a_policy_holds_on_every_replica_a_second_later() {
    let Some(database) = Database::fresh(Backend::Postgres).await else { return };
    let (here, there) = (Rpc::start(&database).await, Rpc::start(&database).await);
    let only = |wait| policy(RetrySettings { rules: vec![rule("", exactly(wait))], ..Default::default() });
    here.make_policy("mail", only(100)).await;
    let named = || pb::Task { retry_policy: POLICY.into(), ..task("t") };
    there.submit(named()).await;
    assert_eq!(wait_of(&there.fail_with("E", "", None).await).unwrap() as i64, 100);
    let change = pb::RetryPolicy { name: POLICY.into(), ..only(200) };
    let change = pb::UpdateRetryPolicyRequest { retry_policy: Some(change), update_mask: None };
    here.clients.retries().update_retry_policy(change).await.unwrap();
    pause("policies are remembered so long", REMEMBERED).await;
    there.submit(named()).await;
    assert_eq!(wait_of(&there.fail_with("E", "", None).await).unwrap() as i64, 200);
}

#[tokio::test]
async fn a_retry_can_be_tried_before_anybody_relies_on_it() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let mut retries = rpc.clients.retries();
        rpc.make_policy("mail", policy(mail())).await;
        use pb::evaluate_retry_request::Decider;
        let ask = |decider, error_type: &str, message: &str, attempt| pb::EvaluateRetryRequest {
            decider,
            error: Some(pb::TaskError { r#type: error_type.into(), message: message.into(), ..Default::default() }),
            attempt,
            ..Default::default()
        };
        let by_policy = || Some(Decider::RetryPolicy(POLICY.into()));

        let answer = retries.evaluate_retry(ask(by_policy(), "SmtpError", "550 no", 1)).await.unwrap().into_inner();
        assert_eq!(decided(answer.decision.as_ref()), (Verdict::DeadLetter, Cause::Rule, 1, 1));
        assert_eq!((answer.min_wait, answer.max_wait), (None, None));
        let answer = retries.evaluate_retry(ask(by_policy(), "Other", "", 2)).await.unwrap().into_inner();
        assert_eq!(decided(answer.decision.as_ref()), (Verdict::Retry, Cause::Default, 0, 1));
        assert_eq!((answer.min_wait, answer.max_wait), (Some(seconds(30)), Some(seconds(60))));
        let old = pb::EvaluateRetryRequest { age: Some(seconds(86_360)), ..ask(by_policy(), "Other", "", 2) };
        let answer = retries.evaluate_retry(old).await.unwrap().into_inner();
        assert_eq!((answer.min_wait, answer.max_wait), (Some(seconds(30)), Some(seconds(40))), "cut at the age");
        let answer = retries.evaluate_retry(ask(None, "Any", "", 25)).await.unwrap().into_inner();
        assert_eq!(decided(answer.decision.as_ref()), (Verdict::DeadLetter, Cause::MaxAttempts, 0, 0));
        let inline = RetrySettings { rules: vec![rule("A*", exactly(7))], ..Default::default() };
        let answer = retries.evaluate_retry(ask(Some(Decider::Settings(inline.clone())), "Abc", "", 0)).await.unwrap();
        assert_eq!(answer.into_inner().max_wait, Some(seconds(7)));

        // A task that runs its second attempt.
        let name = rpc.submit(pb::Task { retry_policy: POLICY.into(), ..task("t") }).await;
        rpc.fail_with("Other", "", None).await;
        rpc.run_now(&name).await;
        let leased = rpc.lease(1).await;
        let answer = retries.evaluate_retry(ask(Some(Decider::Task(name.clone())), "Other", "", 0)).await.unwrap();
        assert_eq!(answer.into_inner().max_wait, Some(seconds(60)));
        rpc.complete(leased.iter().map(token)).await;

        let missing = ask(Some(Decider::RetryPolicy(POLICY.replace("mail", "none"))), "E", "", 0);
        refused(retries.evaluate_retry(missing).await, Code::NotFound, "RESOURCE_NOT_FOUND", &[]);
        let nothing = pb::EvaluateRetryRequest::default();
        refused(retries.evaluate_retry(nothing).await, Code::InvalidArgument, "FIELD_INVALID", &["error"]);

        // One task recovered after a failure; one died of rule 1; one is snoozed; one the worker gave up.
        rpc.submit(pb::Task { retry_policy: POLICY.into(), ..task("t") }).await;
        rpc.fail_with("SmtpError", "550 no", None).await;
        rpc.submit(pb::Task { retry_policy: POLICY.into(), ..task("t") }).await;
        rpc.fail_with("SmtpError", "try later", None).await;
        rpc.failed().await;

        let statistics = retries.get_retry_statistics(pb::GetRetryStatisticsRequest::default()).await.unwrap();
        let pb::GetRetryStatisticsResponse { total, rules, error_types, truncated } = statistics.into_inner();
        let counts = |counts: Option<pb::RetryCounts>| {
            let counts = counts.unwrap();
            [
                counts.failed_count,
                counts.retried_count,
                counts.snoozed_count,
                counts.dead_lettered_count,
                counts.task_count,
                counts.recovered_task_count,
            ]
        };
        assert_eq!((counts(total), truncated), ([4, 1, 1, 2, 4, 1], false));
        let mut by_rule: Vec<_> =
            rules.into_iter().map(|rule| (rule.retry_policy, rule.rule, counts(rule.counts))).collect();
        by_rule.sort();
        let expected = [
            (String::new(), 0, [1, 0, 0, 1, 1, 0]),
            (POLICY.to_owned(), 0, [1, 1, 0, 0, 1, 1]),
            (POLICY.to_owned(), 1, [1, 0, 0, 1, 1, 0]),
            (POLICY.to_owned(), 2, [1, 0, 1, 0, 1, 0]),
        ];
        assert_eq!(by_rule, expected);
        let of_type: Vec<_> = error_types.into_iter().map(|each| (each.error_type, counts(each.counts)[0])).collect();
        assert_eq!(of_type, [("SmtpError".to_owned(), 2), ("Broken".to_owned(), 1), ("Other".to_owned(), 1)]);
        let elsewhere = pb::GetRetryStatisticsRequest { queue: "elsewhere".into(), ..Default::default() };
        let elsewhere = retries.get_retry_statistics(elsewhere).await.unwrap().into_inner();
        assert_eq!(counts(elsewhere.total), [0; 6]);

        // Settings that give up on `Other` and repeat everything of SMTP.
        use pb::simulate_policy_request::Decider as By;
        let settings = RetrySettings { rules: vec![rule("Other", dead_letter())], ..Default::default() };
        let simulate = |decider, limit| pb::SimulatePolicyRequest { decider, limit, ..Default::default() };
        let answer = retries.simulate_policy(simulate(Some(By::Settings(settings)), 0)).await.unwrap().into_inner();
        assert_eq!((answer.examined_count, answer.same_count), (3, 0));
        assert_eq!((answer.saved_count, answer.dead_lettered_count, answer.other_count), (1, 1, 1));
        let difference = answer.differences.iter().find(|difference| difference.task == name).unwrap();
        assert_eq!(decided(difference.was.as_ref()), (Verdict::Retry, Cause::Default, 0, 1));
        assert_eq!(decided(difference.would_be.as_ref()), (Verdict::DeadLetter, Cause::Rule, 1, 0));
        assert_eq!((difference.number, difference.error.as_ref().unwrap().r#type.as_str()), (1, "Other"));
        let same =
            retries.simulate_policy(simulate(Some(By::RetryPolicy(POLICY.into())), 1)).await.unwrap().into_inner();
        assert!(same.truncated && same.examined_count <= 1 && same.differences.is_empty());
        let nothing = retries.simulate_policy(simulate(None, 0)).await;
        refused(nothing, Code::InvalidArgument, "FIELD_INVALID", &["retry_policy"]);
    })
    .await;
}

/// What a queue takes a second in the test of its budget.
const PER_SECOND: i32 = 5;

#[tokio::test]
async fn retries_beyond_the_budget_of_a_queue_come_later() {
    for_each_backend(async |database| {
        let rpc = Rpc::start(database).await;
        let budget = pb::RetryBudget { lease_ratio: 0.0, min_per_second: PER_SECOND };
        let queue = pb::Queue {
            name: "projects/default/queues/default".into(),
            retry_budget: Some(budget),
            ..Default::default()
        };
        let update = pb::UpdateQueueRequest { queue: Some(queue), update_mask: None };
        let queue = rpc.clients.queues().update_queue(update).await.unwrap().into_inner().queue.unwrap();
        assert_eq!(queue.retry_budget, Some(budget));

        // Fifty that would all come at once.
        let at_once = RetrySettings { rules: vec![rule("", exactly(1))], ..Default::default() };
        let names = rpc.submit_many(&pb::Task { retry: Some(at_once), ..task("t") }, 50).await;
        let leased = rpc.lease(100).await;
        let error = Some(pb::TaskError { r#type: "Down".into(), ..Default::default() });
        let failures = leased.iter().map(|one| pb::TaskFailure {
            token: one.token.clone(),
            error: error.clone(),
            ..Default::default()
        });
        let request = pb::FailTasksRequest { failures: failures.collect(), ..Default::default() };
        rpc.clients.workers().fail_tasks(request).await.unwrap();
        let mut seconds = std::collections::BTreeMap::<i64, i32>::new();
        for name in &names {
            *seconds.entry(rpc.get(name).await.run_time.unwrap().seconds).or_default() += 1;
        }
        assert!(seconds.values().all(|count| *count <= PER_SECOND), "{seconds:?}");
        assert_eq!(seconds.len(), 10, "one second after the other: {seconds:?}");
        eventually("the first of them is leased again", Duration::from_secs(10), async || {
            if rpc.lease(1).await.is_empty() { Err("nothing is due") } else { Ok(()) }
        })
        .await;
    })
    .await;
}
