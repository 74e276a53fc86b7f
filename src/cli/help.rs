//! Help texts: examples first, then what the options mean. Lines stay below 90 columns, else clap breaks them.

use clap::Command;

/// The order in which every help page tells its story.
const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Sets the template on a command and on all below it; clap does not hand it down.
pub fn with_template(command: Command) -> Command {
    command.help_template(TEMPLATE).mut_subcommands(with_template)
}

pub const ROOT: &str = "\
Examples:
  tasktower dev --demo                                     a server with something to see
  tasktower watch                                          tasks as they change
  tasktower submit email.send --input '{\"to\":\"a@example.org\"}' --wait
  tasktower list --filter 'state = FAILED'
  tasktower worker --exec ./handler.sh --type email.send   any program as a worker

Exit codes: 0 ok, 1 local error, 2 usage, 3 the awaited task did not succeed,
64 + gRPC code for a refused call.";

pub const SUBMIT: &str = "\
Examples:
  tasktower submit email.send --input '{\"to\":\"a@example.org\"}'
  tasktower submit report.build --input @report.json --queue reports --priority 5 --wait
  tasktower submit invoice.sync --run-at +10m --timeout 30s --max-attempts 3 --unique-key invoice-17
  generate | tasktower submit import --input -";

pub const RETRY_POLICY_CREATE: &str = "\
Examples:
  tasktower retry-policy create patient --settings '{\"max_attempts\": 50, \"max_age\": \"86400s\"}'
  tasktower retry-policy create mail --settings @mail.json --task-type email.send

mail.json, for example:
  {\"rules\": [
     {\"error_type\": \"Smtp*\", \"message_regex\": \"^55\\\\d \", \"dead_letter\": {}},
     {\"error_type\": \"SmtpBusy\", \"snooze\": \"60s\"}],
   \"max_age\": \"172800s\"}";

pub const RETRY_POLICY_EVALUATE: &str = "\
Examples:
  tasktower retry-policy evaluate mail --error-type SmtpError --message '550 no such user'
  tasktower retry-policy evaluate --task 0199a3b25c11 --error-type Timeout";

pub const LIST: &str = "\
Examples:
  tasktower list
  tasktower list --filter 'state = FAILED AND queue = \"email\"' -o wide
  tasktower list --filter 'labels.team = \"core\"' --limit 0 -o name";

pub const WATCH: &str = "\
Examples:
  tasktower watch
  tasktower watch --filter 'queue = \"email\"' --initial-state
  tasktower watch 0199a3b25c11
  tasktower watch -o jsonl | jq .task.name

A lost connection is taken up again where it broke; nothing is lost, nothing comes twice.
In jsonl the last event of each message carries `resumeToken`; give it to --resume-token
to go on from there later.";

pub const CANCEL: &str = "\
Examples:
  tasktower cancel 0199a3b25c11 --reason 'not needed any more'
  tasktower cancel --filter 'queue = \"email\" AND state = PENDING' --dry-run
  tasktower cancel --filter 'queue = \"email\" AND state = PENDING' --yes";

pub const PURGE: &str = "\
Examples:
  tasktower task purge --filter 'state = SUCCEEDED AND finish_time < \"2026-01-01T00:00:00Z\"' --dry-run
  tasktower task purge --filter 'state = FAILED' --yes";

pub const WAIT: &str = "\
Examples:
  tasktower task wait 0199a3b25c11
  tasktower task wait 0199a3b25c11 --timeout 5m -o json

Exit code 0 when it SUCCEEDED, 3 when it FAILED or was CANCELLED, 68 when the time was
over first.";

pub const UPDATE: &str = "\
Examples:
  tasktower task update 0199a3b25c11 --priority 10
  tasktower task update 0199a3b25c11 --run-at +1h --label team=core --label old-
  tasktower task update 0199a3b25c11 --expire-at never";

pub const DEAD_LETTER_LIST: &str = "\
Examples:
  tasktower dead-letter list
  tasktower dlq list --filter 'state = OPEN AND error.message:\"timeout\"' -o wide
  tasktower dlq list --filter 'fingerprint = \"5f0c3a9b12d4e687\"' --limit 0 -o name";

pub const DEAD_LETTER_RETRY: &str = "\
Examples:
  tasktower dead-letter retry 0199a3b25c11
  tasktower dlq retry 0199a3b25c11 --input '{\"to\":\"b@example.org\"}'
  tasktower dlq retry 0199a3b25c11 --dry-run";

pub const DEAD_LETTER_BULK_RETRY: &str = "\
Examples:
  tasktower dead-letter bulk-retry --filter 'queue = \"email\"' --dry-run
  tasktower dlq bulk-retry --filter 'queue = \"email\"' --rate 50 --max-failures 20 --yes
  tasktower dlq bulk-retry 0199a3b25c11 0199a3b25c12 --rate 1

A job does the work, on the server: it goes on when this command is stopped. Follow it with
`tasktower bulk-job watch`, stop it with `tasktower bulk-job cancel`.
Exit code 0 when it SUCCEEDED, 3 when it stopped by itself or was cancelled.";

pub const QUEUE_SET: &str = "\
Examples:
  tasktower queue set email --max-running 20 --rate 100/s
  tasktower queue set email --rate 5000/1h --burst 100 --lease-duration 2m
  tasktower queue set email --rate none --max-running 0        no limits";

pub const SCHEDULE_CREATE: &str = "\
Examples:
  tasktower schedule create nightly --cron '30 2 * * *' --time-zone Europe/Berlin \\
      --type report.build --overlap skip
  tasktower schedule create poll --cron '*/10 * * * * *' --type poll --queue fast
  tasktower schedule create close-month --cron '0 6 L * *' --type books.close --jitter 10m";

pub const SCHEDULE_UPDATE: &str = "\
Examples:
  tasktower schedule update nightly --cron '0 3 * * *'
  tasktower schedule update nightly --queue reports --label team=core
  tasktower schedule update nightly --end none --catch-up all --catch-up-count 10";

pub const SCHEDULE_PREVIEW: &str = "\
Examples:
  tasktower schedule preview nightly
  tasktower schedule preview --cron '30 2 * * *' --time-zone Europe/Berlin \\
      --after 2026-03-27T00:00:00Z --count 5";

pub const SCHEDULE_BACKFILL: &str = "\
Examples:
  tasktower schedule backfill nightly --start 2026-11-01T00:00:00Z --dry-run
  tasktower schedule backfill nightly --start 2026-11-01T00:00:00Z --rate 10/1m --yes";

pub const RETENTION_SET: &str = "\
Examples:
  tasktower retention set --rule state=FAILED,age=180d --rule 'type=mail.*,age=7d' --dry-run
  tasktower retention set --rule state=FAILED,age=180d --rule 'type=mail.*,age=7d'
  tasktower retention set --no-rules                  the age of the server for every task

The rules given replace all there are. The first that matches a task says how long it is
kept after it became final. A rule is `age=` and any of:
  state=      SUCCEEDED, FAILED, CANCELLED, or several with `+`: state=FAILED+CANCELLED
  type=       the type, `*` for any characters, `?` for one
  queue=      the queue, in the same way";

pub const RETENTION_RUN: &str = "\
Examples:
  tasktower retention run --dry-run                   only says what would be deleted
  tasktower retention run --yes";

pub const WORKER: &str = "\
Examples:
  tasktower worker --exec ./send-mail --type email.send --queue email --slots 4
  tasktower worker --exec 'jq .to' --type email.check
  tasktower worker list
  tasktower worker drain build-host

How a program run by --exec sees a task, and is understood:
  stdin      the input: JSON text, or the bytes as they are
  stdout     the result: JSON if it parses, else text, else bytes; at most 256 KiB
  stderr     shown here; the last 8 KiB go into the error details of a failure
  exit 0     success
  exit 65    (EX_DATAERR) failure that is not tried again
  exit N     any other, 75 (EX_TEMPFAIL) included: failure with error type `ExitCode`,
             tried again as the task's retry settings say
  variables  TASKTOWER_TASK, TASKTOWER_TASK_TYPE, TASKTOWER_EPOCH, TASKTOWER_PROJECT,
             TASKTOWER_ADDRESS, TASKTOWER_INPUT_TYPE (the media type of the input)

It runs by `sh -c` in a process group of its own. When the task is cancelled or the lease
is lost, the whole group gets SIGTERM, and SIGKILL 5 s later. What is still in the group
when the program has ended is killed too.

SIGTERM or SIGINT to the worker: no more tasks; what runs may finish within --grace, then
it is stopped and given back uncounted. A second signal stops it at once.";

pub const BENCH: &str = "\
Examples:
  tasktower bench lifecycle --tasks 100000 --workers 8 --batch 500 --json
  tasktower bench latency --rate 200 --seconds 10
  tasktower bench watch --streams 1000 --connections 4 --events 20000 --rate 1000
  tasktower bench backlog --waiting 1000000 --queue bench-long
  tasktower bench schedules --schedules 10000 --json

Every run uses a queue of its own, bench-UUID, and leaves its tasks there; `list` and `backlog`
can go on with a queue they filled before. With --json the last line of stdout is one JSON
object; talk goes to stderr.";

pub const AUDIT_LIST: &str = "\
Examples:
  tasktower audit list --filter 'actor = \"user:*\" AND action = \"queue.*\"'
  tasktower audit list --filter 'resource = \"projects/default/queues/email\"' -o wide
  tasktower audit list --project system --filter 'outcome != OK'";

pub const AUDIT_EXPORT: &str = "\
Examples:
  tasktower audit export > audit.jsonl
  tasktower audit export --after 120345 >> audit.jsonl      what came since
  tasktower audit export --filter 'event_time > \"2026-01-01T00:00:00Z\"'";

pub const AUDIT_VERIFY: &str = "\
Examples:
  tasktower audit verify
  tasktower audit verify --head-file head.txt        against a head kept elsewhere
  tasktower audit head -o name > head.txt            keeps one

Exit code 3 says that somebody tampered with the record.";
