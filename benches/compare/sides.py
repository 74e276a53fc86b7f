"""What is compared: how tasktower and each peer do the same work, every time on a fresh database.

A method runs its side once and answers `Figures`. Payloads are 100 bytes of JSON and handlers are empty at all of them.
"""

import json
import os
import socket
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from process import Failed, Server, cpu_seconds, phase, run

TASKTOWER = Path("target/release/tasktower")
PEERS = Path("target/peers")
CLIENT = PEERS / "build/release/tasktower-bench-peers"
CRONOQ = PEERS / "cronoq/bin/cronoq-server"
NODE_SCRIPTS = PEERS / "node"

# Calls in flight and connections of everything that is called one by one.
IN_FLIGHT = ["--inflight", "64", "--connections", "4"]
# Tasks a second, tasks that do not count, tasks that do.
RATE, WARM_UP, SAMPLES = 50, 50, 250


# A task a millisecond, each finished at once by its first attempt.
HISTORY = """INSERT INTO task (project, id, type, queue, priority, run_time, timeout, max_attempts, initial_backoff,
    max_backoff, owner, input, create_time, state, version, epoch, attempt_count, crash_count, update_time, finish_time,
    success_worker, success_start_time)
SELECT 'default', {id}, 'bench', 'history', 0, 1000 * n, 1000000, 25, 1000000, 1000000, 'bench', {input}, 1000 * n, 4, 3,
    1, 1, 0, 1000 * n, 1000 * n, 'bench', 1000 * n FROM {numbers} numbers"""
SQLITE_NUMBERS = "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n FROM c)"


@dataclass
class Figures:
    """What one run of one side gave."""

    values: dict
    # What CPU times and statements are divided by.
    tasks: int
    # Seconds of CPU by part: server, postgres, client. None if it cannot be seen.
    cpu: dict = field(default_factory=dict)
    statements: int | None = None


class Meter:
    """CPU time and statements between `measuring` and `measured`, added up over the phases of a run."""

    def __init__(self, postgres, server=None, counting=False):
        self.postgres, self.server, self.counting = postgres, server, counting
        self.cpu, self.statements = {}, None
        self.at_begin = None

    def _read(self, client):
        parts = {"client": cpu_seconds(client)}
        if self.server:
            parts["server"] = cpu_seconds(self.server)
        if self.postgres:
            parts["postgres"] = self.postgres.cpu_seconds()
        counted = self.postgres.statements() if self.postgres and self.counting else None
        return parts, counted

    def begin(self, client):
        self.at_begin = self._read(client)

    def end(self, client):
        (before, counted_before), (after, counted) = self.at_begin, self._read(client)
        for part, seconds in after.items():
            if seconds is not None and before[part] is not None:
                self.cpu[part] = self.cpu.get(part, 0.0) + seconds - before[part]
        if counted is not None:
            self.statements = (self.statements or 0) + counted - counted_before

    def phase(self, command, env=None, done=None):
        return phase([str(word) for word in command], self.begin, self.end, env, done)

    def figures(self, values, tasks):
        return Figures(values, tasks, self.cpu, self.statements)


def in_sequence(enqueue, process):
    """Tasks a second of a life that is enqueued at one rate and processed at another."""
    return 1 / (1 / enqueue + 1 / process)


class Sides:
    def __init__(self, postgres, work, finished):
        self.postgres, self.work, self.finished = postgres, work, finished
        # Statements are counted in a run that is not timed.
        self.counting = False
        self.files = 0

    def meter(self, server=None, on_postgres=True):
        on_postgres = self.postgres if on_postgres else None
        return Meter(on_postgres, server.pid if server else None, self.counting)

    def _fresh_file(self, name):
        self.files += 1
        folder = self.work / f"{name}-{self.files}"
        folder.mkdir()
        return folder / "tasks.db"

    # --- tasktower --------------------------------------------------------------------------------------------------

    def fresh_url(self, store):
        if store == "postgres":
            return self.postgres.fresh()
        return f"sqlite://{self._fresh_file('tasktower')}"

    def serve(self, url):
        """A server on a database that is migrated first if it is new."""
        run([TASKTOWER, "migrate", "up", "--database-url", url])
        # Whoever calls has to be known: the clients that are started from here take the key from their environment.
        create = [TASKTOWER, "key", "create", "service:bench", "--role", "admin", "-o", "name", "--database-url", url]
        os.environ["TASKTOWER_API_KEY"] = run(create).strip()
        command = [TASKTOWER, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        command += ["--drain-delay-seconds", "0", "--database-url", url]
        return Server("tasktower", command, self.work / "tasktower.log", r"listening grpc=(\S+)")

    def bench(self, server, store, *arguments):
        meter = self.meter(server, store == "postgres")
        command = [TASKTOWER, "bench", *arguments, "--endpoint", f"http://{server.address}", "--json"]
        return meter, meter.phase(command)

    def another_url(self, store):
        """A new database beside those there are."""
        return self.postgres.another() if store == "postgres" else self.fresh_url(store)

    def fill_with_history(self, url, tasks):
        """Finished tasks, written past the product: making them one by one would take longer than measuring. Their
        journal is not written."""
        run([TASKTOWER, "migrate", "up", "--database-url", url])
        if url.startswith("sqlite://"):
            insert = HISTORY.format(id="randomblob(16)", input="zeroblob(100)", numbers=SQLITE_NUMBERS)
            with sqlite3.connect(url.removeprefix("sqlite://")) as database:
                database.execute(insert, (tasks,))
            return
        numbers = f"(SELECT n FROM generate_series(1, {tasks}) n)"
        statement = HISTORY.format(id="gen_random_uuid()", input="decode(repeat('78', 100), 'hex')", numbers=numbers)
        self.postgres.ask("SET search_path = tasktower; " + statement, url=url)
        self.postgres.settle(url)

    def tasktower_lifecycle(self, store, tasks, url=None):
        with self.serve(url or self.fresh_url(store)) as server:
            # Best of those tried: with more workers each gets smaller batches.
            settings = ["--batch", 1000, "--workers", 2, "--submitters", 4, "--connections", 2]
            meter, told = self.bench(server, store, "lifecycle", "--tasks", tasks, *settings)
        if told["lost"]:
            raise Failed(f"tasktower lost {told['lost']} tasks")
        values = {"per_s": told["tasks_per_s"], "enqueue": told["submit_per_s"], "process": told["process_per_s"]}
        return meter.figures(values, tasks)

    def tasktower_submit(self, store, seconds):
        with self.serve(self.fresh_url(store)) as server:
            meter, told = self.bench(server, store, "submit", "--seconds", seconds, *IN_FLIGHT)
        return meter.figures(told, told["submitted"])

    def tasktower_get(self, store, seconds):
        with self.serve(self.fresh_url(store)) as server:
            meter, told = self.bench(server, store, "read", "--get-only", "--seconds", seconds, *IN_FLIGHT)
        return meter.figures(told, told["submitted"])

    def tasktower_latency(self, store):
        with self.serve(self.fresh_url(store)) as server:
            settings = ["--rate", RATE, "--warm-up", WARM_UP, "--seconds", SAMPLES // RATE]
            meter, told = self.bench(server, store, "latency", *settings)
        if told["samples"] != SAMPLES:
            raise Failed(f"{told['samples']} of {SAMPLES} tasks started")
        return meter.figures(told, WARM_UP + SAMPLES)

    def retry_decision(self):
        """No server: the pure decision, in a program of its own."""
        meter = self.meter(on_postgres=False)
        told = json.loads(run(["cargo", "bench", "--quiet", "--bench", "retry_decision"]).strip().splitlines()[-1])
        return meter.figures(told, 0)

    def authentication(self):
        """No server: what it adds to a call to know who calls, in a program of its own."""
        meter = self.meter(on_postgres=False)
        told = json.loads(run(["cargo", "bench", "--quiet", "--bench", "authentication"]).strip().splitlines()[-1])
        return meter.figures(told, 0)

    # --- the bare echo ----------------------------------------------------------------------------------------------

    def echo(self, seconds):
        log = self.work / "echo.log"
        with Server("the echo server", [CLIENT, "echo-serve"], log, r"listening grpc=(\S+)") as server:
            meter = self.meter(server, on_postgres=False)
            endpoint = f"http://{server.address}"
            told = meter.phase([CLIENT, "echo-call", "--endpoint", endpoint, "--seconds", seconds, *IN_FLIGHT])
        return meter.figures(told, told["tasks"])

    # --- cronoq-server ----------------------------------------------------------------------------------------------

    @contextmanager
    def cronoq(self, store):
        """A server on a fresh store; answers it, its endpoint and how to read the store."""
        grpc, http = free_port(), free_port()
        if store == "postgres":
            place = self.postgres.fresh()
            settings = f'kind = "postgres"\nurl = "{place}"'
        else:
            place = self._fresh_file("cronoq")
            settings = f'kind = "sqlite"\npath = "{place}"'
        config = self.work / "cronoq.toml"
        # Limits above what the rows need, so that none of them is what is measured.
        config.write_text(
            f'[server]\ngrpc_addr = "127.0.0.1:{grpc}"\nhttp_addr = "127.0.0.1:{http}"\n[store]\n{settings}\n'
            "[limits]\nmax_pending_per_pool = 1000000\nmax_slots_per_worker = 8192\n"
            '[[pools]]\nname = "default"\nmax = 8192\nautoscale = false\n'
        )
        with Server("cronoq-server", [CRONOQ, "--config", config], self.work / "cronoq.log") as server:
            yield server, ["--endpoint", f"http://127.0.0.1:{grpc}"], place

    def cronoq_lifecycle(self, store, tasks):
        with self.cronoq(store) as (server, endpoint, place):
            meter = self.meter(server, store == "postgres")
            enqueued = meter.phase([CLIENT, "cronoq-enqueue", *endpoint, "--tasks", tasks])
            if store == "postgres":
                self.postgres.settle(place)
            command = [CLIENT, "cronoq-process", *endpoint, "--tasks", tasks]
            processed = meter.phase(command, done=lambda: self._cronoq_open(store, place) == 0)
        return meter.figures(lifecycle(enqueued, processed), tasks)

    def _cronoq_open(self, store, place):
        if store == "postgres":
            return int(self.postgres.ask("SELECT count(*) FROM cronoq_tasks WHERE NOT terminal", url=place))
        with sqlite3.connect(f"file:{place}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM cronoq_tasks WHERE terminal = 0").fetchone()[0]

    def cronoq_submit(self, store, seconds):
        with self.cronoq(store) as (server, endpoint, _):
            meter = self.meter(server, store == "postgres")
            told = meter.phase([CLIENT, "cronoq-submit", *endpoint, "--seconds", seconds, *IN_FLIGHT])
        return meter.figures(told, told["tasks"])

    def cronoq_latency(self, store):
        with self.cronoq(store) as (server, endpoint, _):
            meter = self.meter(server, store == "postgres")
            settings = ["--rate", RATE, "--warm-up", WARM_UP, "--tasks", SAMPLES]
            told = meter.phase([CLIENT, "cronoq-latency", *endpoint, *settings])
        return meter.figures(told, WARM_UP + SAMPLES)

    # --- node: graphile-worker, pg-boss -----------------------------------------------------------------------------

    def _node(self, script, url, meter, command, **options):
        env = {**os.environ, "DATABASE_URL": url}
        return meter.phase([node(), NODE_SCRIPTS / script, command, json.dumps(options)], env)

    def node_lifecycle(self, script, tasks):
        url = self.postgres.fresh()
        meter = self.meter()
        enqueued = self._node(script, url, meter, "enqueue", tasks=tasks)
        self.postgres.settle(url)
        processed = self._node(script, url, meter, "process", tasks=tasks)
        return meter.figures(lifecycle(enqueued, processed), tasks)

    def node_latency(self, script):
        meter = self.meter()
        told = self._node(script, self.postgres.fresh(), meter, "latency", rate=RATE, warmUp=WARM_UP, tasks=SAMPLES)
        return meter.figures(told, WARM_UP + SAMPLES)


def lifecycle(enqueued, processed):
    enqueue, process = enqueued["per_s"], processed["per_s"]
    return {"per_s": in_sequence(enqueue, process), "enqueue": enqueue, "process": process}


def node():
    found = sorted(NODE_SCRIPTS.glob("node_modules/node-linux-*/bin/node"))
    if not found:
        raise Failed("node is not installed under target/peers")
    return found[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def missing():
    """Why each peer cannot run here, by name; a peer that can is not in it."""
    reasons = {}
    if not CLIENT.exists():
        reasons["tonic echo"] = reasons["cronoq-server"] = f"{CLIENT} is missing"
    if not CRONOQ.exists():
        reasons["cronoq-server"] = f"{CRONOQ} is missing"
    for name, package in (("graphile-worker", "graphile-worker"), ("pg-boss", "pg-boss")):
        if not (NODE_SCRIPTS / "node_modules" / package).is_dir():
            reasons[name] = f"{package} is not installed under {NODE_SCRIPTS}"
    return reasons
