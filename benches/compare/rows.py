"""The table: what each row compares, and what is asked of it.

A row names its sides; all of them run in each round, in turn, each on a fresh database. `must` and `aim` are bounds on
the ratio of tasktower to a peer, or on the figure itself where there is no peer.
"""

import time
from dataclasses import dataclass

from process import Server, resident_bytes
from sides import TASKTOWER, Figures

OURS = "tasktower"
PG_BOSS, GRAPHILE, CRONOQ, ECHO = "pg-boss", "graphile-worker", "cronoq-server", "tonic echo"
PEERS = (PG_BOSS, GRAPHILE, CRONOQ, ECHO)

LIFECYCLE_TASKS = 50_000
CALL_SECONDS = 3
MANY, FEW = 1_000_000, 1_000


@dataclass
class Value:
    """A figure that sides have in common."""

    key: str
    unit: str
    more_is_better: bool
    digits: int = 0


@dataclass
class Ask:
    """A bound: on the ratio to a peer, or on the figure itself when `peer` is None."""

    key: str
    peer: str | None
    must: float | None
    aim: float | None


@dataclass
class Row:
    name: str
    title: str
    values: list
    asks: list
    # (sides, stack) -> {name: run once}; what it enters into the stack lasts for the row.
    prepare: object
    # Rounds cost too much to have as many as asked for.
    most_rounds: int | None = None


PER_S = [Value("per_s", "tasks/s", True), Value("enqueue", "enqueued/s", True), Value("process", "processed/s", True)]
CALLS_PER_S = [Value("per_s", "calls/s", True), Value("p50_ms", "p50 ms", False, 2), Value("p99_ms", "p99 ms", False, 2)]
MILLIS = [Value("p50_ms", "p50 ms", False, 2), Value("p99_ms", "p99 ms", False, 2)]


def lifecycle_postgres(sides, stack):
    return {
        OURS: lambda: sides.tasktower_lifecycle("postgres", LIFECYCLE_TASKS),
        PG_BOSS: lambda: sides.node_lifecycle("pg_boss.mjs", LIFECYCLE_TASKS),
        GRAPHILE: lambda: sides.node_lifecycle("graphile_worker.mjs", LIFECYCLE_TASKS),
        CRONOQ: lambda: sides.cronoq_lifecycle("postgres", LIFECYCLE_TASKS),
    }


def lifecycle_sqlite(sides, stack):
    return {
        OURS: lambda: sides.tasktower_lifecycle("sqlite", LIFECYCLE_TASKS),
        CRONOQ: lambda: sides.cronoq_lifecycle("sqlite", LIFECYCLE_TASKS),
        # It has no SQLite; the aim is to be as fast on a file as it is on PostgreSQL.
        GRAPHILE: lambda: sides.node_lifecycle("graphile_worker.mjs", LIFECYCLE_TASKS),
    }


def submit(sides, stack):
    return {
        OURS: lambda: sides.tasktower_submit("postgres", CALL_SECONDS),
        ECHO: lambda: sides.echo(CALL_SECONDS),
        CRONOQ: lambda: sides.cronoq_submit("postgres", CALL_SECONDS),
    }


def get(store):
    def prepare(sides, stack):
        return {
            OURS: lambda: sides.tasktower_get(store, CALL_SECONDS),
            ECHO: lambda: sides.echo(CALL_SECONDS),
        }

    return prepare


def latency(sides, stack):
    return {
        OURS: lambda: sides.tasktower_latency("postgres"),
        GRAPHILE: lambda: sides.node_latency("graphile_worker.mjs"),
        CRONOQ: lambda: sides.cronoq_latency("postgres"),
        PG_BOSS: lambda: sides.node_latency("pg_boss.mjs"),
    }


def listing(store):
    def prepare(sides, stack):
        url = sides.fresh_url(store)
        server = stack.enter_context(sides.serve(url))

        def fill():
            sides.bench(server, store, "list", "--queue", "long", "--tasks", MANY, "--seconds", 1)
            if store == "postgres":
                sides.postgres.settle(url)

        def once():
            meter, told = sides.bench(server, store, "list", "--queue", "long", "--tasks", MANY, "--seconds", 3)
            slowest = max(told["p95_ms_by_filter"].values())
            return meter.figures({**told, **told["p95_ms_by_filter"], "slowest": slowest}, told["pages"])

        fill()
        return {OURS: once}

    return prepare


def backlog(store):
    def prepare(sides, stack):
        servers = {}
        for waiting in (MANY, FEW):
            # Each has a database of its own, which is filled once: only what it leases is put back.
            url = sides.postgres.another() if store == "postgres" else sides.fresh_url(store)
            servers[waiting] = stack.enter_context(sides.serve(url))
            fill = ["backlog", "--queue", "long", "--waiting", waiting, "--leases", 1]
            sides.bench(servers[waiting], store, *fill)
            if store == "postgres":
                sides.postgres.settle(url)

        def once(waiting):
            how = ["backlog", "--queue", "long", "--waiting", waiting, "--leases", 100]
            meter, told = sides.bench(servers[waiting], store, *how)
            return meter.figures(told, told["leased"])

        return {OURS: lambda: once(MANY), SHORT: lambda: once(FEW)}

    return prepare


SHORT = f"with {FEW:,}"


def history(store):
    def prepare(sides, stack):
        # Filled once; what the runs add to it is little.
        long = sides.another_url(store)
        sides.fill_with_history(long, sides.finished)
        return {
            OURS: lambda: sides.tasktower_lifecycle(store, LIFECYCLE_TASKS, long),
            EMPTY: lambda: sides.tasktower_lifecycle(store, LIFECYCLE_TASKS, sides.another_url(store)),
        }

    return prepare


EMPTY = "on an empty one"


def retention(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                meter, told = sides.bench(server, store, "retention", "--tasks", MANY)
            return meter.figures(told, told["deleted"])

        return {OURS: once}

    return prepare


def watch(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                how = ["--streams", 1000, "--connections", 4, "--events", 10_000, "--rate", 1000]
                meter, told = sides.bench(server, store, "watch", *how)
            return meter.figures(told, told["delivered"])

        return {OURS: once}

    return prepare


def retry(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                meter, told = sides.bench(server, store, "retry", "--tasks", 10_000, "--backoff", "10s")
            return meter.figures(told, told["tasks"])

        return {OURS: once}

    return prepare


def bulk_retry(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                meter, told = sides.bench(server, store, "bulk-retry", "--tasks", 20_000, "--rate", 1_000)
            told["off_percent"] = abs(told["error_percent"])
            return meter.figures(told, told["tasks"])

        return {OURS: once}

    return prepare


def bulk_retry_stop(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                meter, told = sides.bench(
                    server, store, "bulk-retry", "--tasks", 20_000, "--rate", 500, "--fail", "20s"
                )
            told["windows"] = told["stopped_after_s"] / told["window_s"]
            return meter.figures(told, told["retried"])

        return {OURS: once}

    return prepare


def schedules(store):
    def prepare(sides, stack):
        def once():
            with sides.serve(sides.fresh_url(store)) as server:
                meter, told = sides.bench(server, store, "schedules", "--schedules", SCHEDULES, "--lead", "90s")
            return meter.figures(told, told["schedules"])

        return {OURS: once}

    return prepare


def authentication(sides, stack):
    return {OURS: sides.authentication}


def retry_decision(sides, stack):
    return {OURS: sides.retry_decision}


SCHEDULES = 10_000


def start(sides, stack):
    """From the start of the process to the line that says it answers, on a file with finished tasks in it."""
    url = sides.fresh_url("sqlite")
    with sides.serve(url) as server:
        sides.bench(server, "sqlite", "lifecycle", "--tasks", LIFECYCLE_TASKS, "--batch", 1000)

    def once():
        command = [TASKTOWER, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        command += ["--drain-delay-seconds", "0", "--database-url", url]
        with Server("tasktower", command, sides.work / "tasktower.log", r"listening grpc=(\S+)") as server:
            # Idle means that the loops have run once and nobody has called.
            time.sleep(IDLE_SECONDS)
            memory = resident_bytes(server.pid)
            return Figures({"start_ms": server.start_seconds * 1e3, "memory_mib": memory / 2**20}, 0)

    return {OURS: once}


IDLE_SECONDS = 3

ROWS = [
    Row(
        "lifecycle-postgres",
        f"lifecycle of {LIFECYCLE_TASKS:,} tasks on PostgreSQL, batches of 1,000",
        PER_S,
        [Ask("per_s", PG_BOSS, 1.0, None), Ask("per_s", GRAPHILE, None, 1.0), Ask("per_s", CRONOQ, None, 1.0)],
        lifecycle_postgres,
    ),
    Row(
        "lifecycle-sqlite",
        f"lifecycle of {LIFECYCLE_TASKS:,} tasks on SQLite (synchronous FULL), batches of 1,000",
        PER_S,
        [Ask("per_s", CRONOQ, 1.0, None), Ask("per_s", GRAPHILE, None, 1.0)],
        lifecycle_sqlite,
    ),
    Row(
        "submit",
        "SubmitTask one by one, 64 in flight on 4 connections, PostgreSQL",
        CALLS_PER_S,
        [Ask("per_s", ECHO, 0.3, 0.5), Ask("per_s", CRONOQ, None, None)],
        submit,
    ),
    Row(
        "latency",
        f"from submit to the start of the handler at {50}/s, PostgreSQL",
        MILLIS,
        [
            Ask("p50_ms", GRAPHILE, 1.0, None),
            Ask("p99_ms", GRAPHILE, 1.0, None),
            Ask("p50_ms", CRONOQ, None, 1.0),
            Ask("p99_ms", CRONOQ, None, 1.0),
        ],
        latency,
    ),
    Row(
        "get-postgres",
        "GetTask, 64 in flight on 4 connections, PostgreSQL",
        CALLS_PER_S,
        [Ask("per_s", ECHO, 0.4, 0.7)],
        get("postgres"),
    ),
    Row(
        "get-sqlite",
        "GetTask, 64 in flight on 4 connections, SQLite",
        CALLS_PER_S,
        [Ask("per_s", ECHO, 0.4, 0.7)],
        get("sqlite"),
    ),
    *(
        Row(
            f"list-{store}",
            f"ListTasks, pages of 50 among {MANY:,} tasks, {name}; slowest of the filters",
            [
                Value("slowest", "p95 ms", False, 2),
                *(
                    Value(kind, f"{kind} p95 ms", False, 2)
                    for kind in ("newest", "onward", "state", "queue", "small_queue", "small_queue_and_state")
                ),
            ],
            [Ask("slowest", None, 20, 5)],
            listing(store),
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"backlog-{store}",
            f"tasks leased a second of LeaseTasks, {MANY:,} waiting, {name}",
            [Value("per_s", "leased/s", True), Value("p50_ms", "p50 ms", False, 2), Value("p99_ms", "p99 ms", False, 2)],
            [Ask("per_s", SHORT, 0.8, 0.95)],
            backlog(store),
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"history-{store}",
            f"lifecycle of {LIFECYCLE_TASKS:,} tasks in a database with many finished ones (--finished), {name}",
            PER_S,
            [Ask("per_s", EMPTY, 0.9, None)],
            history(store),
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"retention-{store}",
            f"LeaseTasks while {MANY:,} finished tasks are deleted, against the same alone, {name}",
            [
                Value("p99_ratio", "of p99 alone", False, 2),
                Value("alone_p99_ms", "p99 ms alone", False, 2),
                Value("beside_p99_ms", "p99 ms beside", False, 2),
                Value("deleted_per_s", "deleted/s", True),
            ],
            [Ask("p99_ratio", None, 2, 1.25)],
            retention(store),
            most_rounds=1,
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"watch-{store}",
            f"1,000 watchers of a task each, 1,000 changes/s, {name}",
            [*MILLIS, Value("missed", "missed", False)],
            [Ask("p99_ms", None, 50, 10), Ask("missed", None, 0, 0)],
            watch(store),
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"retry-{store}",
            f"10,000 tasks that fail together, back-off of 10 s, {name}: the seconds in which they come back",
            [
                Value("most_over_mean", "fullest second ÷ mean", False, 2),
                Value("seconds", "s from first to last", False),
                Value("failing_s", "s to fail them", False, 2),
            ],
            [Ask("most_over_mean", None, 2, None)],
            retry(store),
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"bulk-retry-{store}",
            f"20,000 dead letters retried at 1,000/s, {name}: how far the rate is off over the job",
            [Value("off_percent", "% off", False, 2), Value("per_s", "tasks/s", True)],
            [Ask("off_percent", None, 5, None)],
            bulk_retry(store),
            most_rounds=4,
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    *(
        Row(
            f"bulk-retry-stop-{store}",
            f"dead letters retried at 500/s that all fail again, {name}: how soon the job stops",
            [
                Value("windows", "windows from the first failure", False, 3),
                Value("stopped_after_s", "s", False, 2),
                Value("retried", "retried", False),
            ],
            [Ask("windows", None, 1, None)],
            bulk_retry_stop(store),
            most_rounds=4,
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    Row(
        "authentication",
        "who calls, and what it may do: added to a call by a key, and by a token that was seen before",
        [Value("key_p50_us", "key p50 µs", False, 2), Value("token_p50_us", "token p50 µs", False, 2)],
        [Ask("key_p50_us", None, 15, None), Ask("token_p50_us", None, 15, None)],
        authentication,
    ),
    Row(
        "retry-decision",
        "decision about a failed attempt, 50 rules with expressions, the last one matches",
        [Value("p50_us", "p50 µs", False, 2), Value("p99_us", "p99 µs", False, 2)],
        [Ask("p50_us", None, 10, None)],
        retry_decision,
    ),
    *(
        Row(
            f"schedules-{store}",
            f"{SCHEDULES:,} schedules due at the same moment, from the tick to a watcher, {name}",
            [*MILLIS, Value("lost", "lost", False), Value("duplicated", "doubled", False)],
            [Ask("p99_ms", None, 2_000, 1_000), Ask("lost", None, 0, 0), Ask("duplicated", None, 0, 0)],
            schedules(store),
            most_rounds=3,
        )
        for store, name in (("postgres", "PostgreSQL"), ("sqlite", "SQLite"))
    ),
    Row(
        "start",
        f"start on an SQLite file with {LIFECYCLE_TASKS:,} tasks, and memory {IDLE_SECONDS} s later",
        [Value("start_ms", "ms to ready", False, 1), Value("memory_mib", "MiB", False, 1)],
        [Ask("start_ms", None, 500, 100), Ask("memory_mib", None, 40, 20)],
        start,
    ),
]
