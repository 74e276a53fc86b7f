#!/usr/bin/env python3
"""Works tasks with plain unary calls: LeaseTasks, Heartbeat, CompleteTasks, FailTasks, ReleaseTasks.

    worker.py 10 --queue email      # ends after ten tasks
    worker.py                       # works until it is told to stop

Prints one line of JSON for each task that ended, and one with the totals at the end. SIGTERM and SIGINT let running tasks
finish, give back the rest, and end.

Three threads own three things: the main thread leases as many tasks as slots are free, one thread extends the leases of
what runs, one reports results in batches. Handlers run in a pool.
"""

import argparse
import os
import queue
import signal
import socket
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import common
import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from tasktower.v1 import task_pb2, worker_pb2, worker_pb2_grpc

# Seconds one LeaseTasks waits for a task. Short, so that a signal is noticed soon.
POLL = 2.0
# Seconds between two looks at the leases.
BEAT_LOOK = 0.25
# A lease is extended this often in its duration, so that one heartbeat may fail.
BEATS_PER_LEASE = 3
# The part of a lease a handler may use without a heartbeat.
USABLE_PART = 0.9
# Seconds of a lease that does not say.
DEFAULT_LEASE = 60.0
# Tasks in one report: what the server accepts.
BATCH = 1_000
# Seconds running tasks have to finish after a signal or a drain.
DRAIN_GRACE = 25.0
# Seconds between two tries when the server is away: the first wait, and the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


class Failure(Exception):
    """Why an attempt failed: the kind is for programs, the message for people."""

    def __init__(self, kind: str, message: str, final: bool = False):
        super().__init__(message)
        self.kind, self.final = kind, final


@dataclass
class Attempt:
    """One task at work."""

    task: task_pb2.Task
    token: worker_pb2.LeaseToken
    # Seconds of the lease, counted on the monotonic clock from before the call that gave or extended it.
    lease: float
    held_from: float
    stop: threading.Event = field(default_factory=threading.Event)
    stop_reason: str = ""
    progress: task_pb2.Progress | None = None
    lost: bool = False

    def ask_to_stop(self, reason: str):
        self.stop_reason = self.stop_reason or reason
        self.stop.set()

    def tell(self, percent: float, message: str):
        """The latest word goes with the next heartbeat."""
        self.progress = task_pb2.Progress(percent=percent, message=message)


# --- the handlers: replace them with your own -------------------------------------------------------------------------


def echo(attempt: Attempt, given):
    """Returns what it is given."""
    return given


def sleep(attempt: Attempt, given):
    """Sleeps {"seconds": n} with progress, and wakes early when it should stop."""
    seconds, began = float((given or {}).get("seconds", 1)), time.monotonic()
    while (slept := time.monotonic() - began) < seconds:
        attempt.tell(100 * slept / seconds, f"slept {slept:.1f} of {seconds} s")
        if attempt.stop.wait(min(0.1, seconds - slept)):
            raise Failure("CANCELLED", attempt.stop_reason)
    return {"slept": seconds}


def fail(attempt: Attempt, given):
    """Fails as told: {"type": "SmtpTimeout", "message": "…", "final": true}."""
    given = given or {}
    raise Failure(given.get("type", "ExampleError"), given.get("message", "failed as told"), given.get("final", False))


HANDLERS = {"example.echo": echo, "example.sleep": sleep, "example.fail": fail}


class Worker:
    def __init__(self, stub, args):
        self.stub, self.args = stub, args
        self.parent = f"projects/{args.project}"
        self.identity = worker_pb2.WorkerIdentity(
            worker=args.name,
            incarnation=str(uuid.uuid4()),
            types=args.type or list(HANDLERS),
            queues=args.queue,
            slots=args.slots,
            labels={"language": "python"},
        )
        self.lock = threading.Lock()
        self.running: dict[tuple[str, int], Attempt] = {}
        self.slot_freed = threading.Event()
        self.results: queue.Queue = queue.Queue()
        self.drain, self.over = threading.Event(), threading.Event()
        self.counts = {"succeeded": 0, "failed": 0, "released": 0, "lost": 0}

    def run(self):
        threads = [threading.Thread(target=self.beat, daemon=True), threading.Thread(target=self.report, daemon=True)]
        for thread in threads:
            thread.start()
        pool = ThreadPoolExecutor(self.args.slots)
        try:
            self.lease(pool)
            self.finish()
        finally:
            # A handler that does not listen must not keep the process from ending.
            pool.shutdown(wait=False, cancel_futures=True)
            self.over.set()
            self.results.put(None)
            for thread in threads:
                thread.join(timeout=common.CALL_TIMEOUT)
        common.say({"done": True, **self.counts})

    # --- leasing --------------------------------------------------------------------------------------------------

    def lease(self, pool: ThreadPoolExecutor):
        taken = 0
        while not self.drain.is_set() and (self.args.tasks == 0 or taken < self.args.tasks):
            self.slot_freed.clear()
            with self.lock:
                free = self.args.slots - len(self.running)
            if self.args.tasks:
                free = min(free, self.args.tasks - taken)
            if free <= 0:
                self.slot_freed.wait(POLL)
                continue
            # From before the first try: that one may be what gave the leases.
            before = time.monotonic()
            answer = self.lease_some(min(free, BATCH))
            for leased in answer.tasks:
                lease = leased.lease_duration.ToTimedelta().total_seconds() or DEFAULT_LEASE
                attempt = Attempt(leased.task, leased.token, lease, before)
                with self.lock:
                    self.running[key(leased.token)] = attempt
                pool.submit(self.work, attempt)
                taken += 1
            if answer.drain:
                self.drain.set()

    def lease_some(self, count: int) -> worker_pb2.LeaseTasksResponse:
        """Asks until there is an answer. An answer may be lost after the leases were given; the same request with the same
        id gets the same leases again."""
        request = worker_pb2.LeaseTasksRequest(
            parent=self.parent,
            identity=self.identity,
            max_tasks=count,
            wait=Duration(seconds=int(POLL)),
            request_id=str(uuid.uuid4()),
        )
        pause = FIRST_WAIT
        while not self.drain.is_set():
            try:
                return self.stub.LeaseTasks(request, timeout=POLL + common.CALL_TIMEOUT)
            except grpc.RpcError as error:
                if not may_repeat(error):
                    raise
                warn(error)
            time.sleep(pause)
            pause = min(pause * 2, LONGEST_WAIT)
        return worker_pb2.LeaseTasksResponse()

    def finish(self):
        """Lets running tasks finish; after the grace they are asked to stop and given back."""
        deadline = time.monotonic() + DRAIN_GRACE
        while True:
            self.slot_freed.clear()
            with self.lock:
                left = list(self.running.values())
            if not left and self.results.unfinished_tasks == 0:
                return
            # Without a signal this only waits for the last tasks, however long they take.
            if self.drain.is_set() and time.monotonic() >= deadline:
                break
            self.slot_freed.wait(0.05)
        for attempt in left:
            attempt.ask_to_stop("worker stops")
            self.results.put((attempt, worker_pb2.TaskRelease(token=attempt.token)))
        deadline = time.monotonic() + common.CALL_TIMEOUT
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)

    # --- working --------------------------------------------------------------------------------------------------

    def work(self, attempt: Attempt):
        try:
            handler = HANDLERS.get(attempt.task.type, echo)
            given = json_format.MessageToDict(attempt.task.input.json) if attempt.task.input.HasField("json") else None
            completion = worker_pb2.TaskCompletion(token=attempt.token)
            json_format.ParseDict(handler(attempt, given), completion.result.json)
            self.results.put((attempt, completion))
        except Failure as failure:
            self.results.put((attempt, failed(attempt, failure.kind, str(failure), failure.final)))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is a failed attempt
            self.results.put((attempt, failed(attempt, type(error).__name__, str(error))))

    # --- heartbeats -----------------------------------------------------------------------------------------------

    def beat(self):
        last = time.monotonic()
        while not self.over.wait(BEAT_LOOK):
            now = time.monotonic()
            with self.lock:
                attempts = [attempt for attempt in self.running.values() if not attempt.lost]
            for attempt in attempts:
                if now - attempt.held_from >= attempt.lease * USABLE_PART:
                    attempt.ask_to_stop("lease runs out")
            if not attempts or now - last < min(1.0, min(attempt.lease for attempt in attempts) / BEATS_PER_LEASE):
                continue
            last = now
            due = [a for a in attempts if a.progress or now - a.held_from >= a.lease / BEATS_PER_LEASE]
            for start in range(0, len(due), BATCH):
                self.extend(due[start : start + BATCH], now)

    def extend(self, attempts: list[Attempt], sent: float):
        leases = []
        for attempt in attempts:
            progress, attempt.progress = attempt.progress, None
            leases.append(worker_pb2.LeaseHeartbeat(token=attempt.token, progress=progress))
        request = worker_pb2.HeartbeatRequest(
            parent=self.parent, worker=self.args.name, incarnation=self.identity.incarnation, leases=leases
        )
        try:
            answer = self.stub.Heartbeat(request, timeout=common.CALL_TIMEOUT)
        except grpc.RpcError as error:
            # The next look tries again, until the lease runs out.
            warn(error)
            return
        for attempt, result in zip(attempts, answer.results):
            if result.status.code == 0:
                attempt.held_from = sent
                attempt.lease = result.lease_duration.ToTimedelta().total_seconds() or attempt.lease
                if result.cancel_requested:
                    attempt.ask_to_stop(result.cancel_reason or "cancelled")
            elif common.reason_of(result.status.details) == "LEASE_LOST":
                attempt.lost = True
                attempt.ask_to_stop("lease lost")
        if answer.drain:
            self.drain.set()

    # --- reports --------------------------------------------------------------------------------------------------

    def report(self):
        while True:
            batch = [self.results.get()]
            while len(batch) < BATCH and not self.results.empty():
                batch.append(self.results.get())
            reports = [item for item in batch if item is not None]
            self.send(reports, worker_pb2.TaskCompletion, self.complete, "succeeded")
            self.send(reports, worker_pb2.TaskFailure, self.fail, "failed")
            self.send(reports, worker_pb2.TaskRelease, self.release, "released")
            for _ in batch:
                self.results.task_done()
            if len(reports) < len(batch):
                return

    def complete(self, completions):
        request = worker_pb2.CompleteTasksRequest(parent=self.parent, completions=completions)
        return self.stub.CompleteTasks(request, timeout=common.CALL_TIMEOUT)

    def fail(self, failures):
        request = worker_pb2.FailTasksRequest(parent=self.parent, failures=failures)
        return self.stub.FailTasks(request, timeout=common.CALL_TIMEOUT)

    def release(self, releases):
        request = worker_pb2.ReleaseTasksRequest(parent=self.parent, releases=releases)
        return self.stub.ReleaseTasks(request, timeout=common.CALL_TIMEOUT)

    def send(self, reports, kind, call, outcome: str):
        """Sends the reports of one kind until they are answered. Repeating is safe: the token decides."""
        mine = [(attempt, report) for attempt, report in reports if isinstance(report, kind)]
        if not mine:
            return
        pause = FIRST_WAIT
        while True:
            try:
                answer = call([report for _, report in mine])
                break
            except grpc.RpcError as error:
                warn(error)
                longest = max(attempt.held_from + 2 * attempt.lease for attempt, _ in mine)
                if not may_repeat(error) or time.monotonic() > longest or self.over.is_set():
                    self.settle(mine, ["lost"] * len(mine), [error.details()] * len(mine))
                    return
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_WAIT)
        ends = [outcome if result.status.code == 0 else "lost" for result in answer.results]
        self.settle(mine, ends, [result.status.message for result in answer.results])

    def settle(self, mine, ends, texts):
        for (attempt, _), end, text in zip(mine, ends, texts):
            with self.lock:
                known = self.running.pop(key(attempt.token), None)
            if known is None:
                continue
            self.counts[end] += 1
            line = {"task": attempt.token.task, "epoch": attempt.token.epoch, "outcome": end}
            common.say({**line, "message": text} if end == "lost" else line)
        self.slot_freed.set()


def key(token) -> tuple[str, int]:
    return token.task, token.epoch


def failed(attempt: Attempt, kind: str, message: str, final: bool = False):
    # Cut to what the server accepts: a failure that is refused would be lost.
    error = task_pb2.TaskError(type=kind[:256], message=message[:4_000])
    return worker_pb2.TaskFailure(token=attempt.token, error=error, final=final)


def may_repeat(error: grpc.RpcError) -> bool:
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
    )


def warn(error: grpc.RpcError):
    print(f"{error.code().name}: {error.details()}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=int, nargs="?", default=0, help="end after so many; 0 works on")
    parser.add_argument("--project", default="default")
    parser.add_argument("--queue", action="append", default=[], help="may be repeated; `default` unless given")
    parser.add_argument("--type", action="append", default=[], help="may be repeated; unknown types are echoed")
    parser.add_argument("--name", default=f"python-{socket.gethostname()}"[:128])
    parser.add_argument("--slots", type=int, default=min(32, 4 * (os.cpu_count() or 1)), help="tasks at a time")
    args = parser.parse_args()
    if args.tasks < 0 or not 1 <= args.slots <= BATCH:
        parser.error("tasks is 0 or more, slots 1 to 1000")
    return args


def main() -> int:
    args = arguments()
    with common.connect() as channel:
        worker = Worker(worker_pb2_grpc.WorkerServiceStub(channel), args)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: worker.drain.set())
        worker.run()
    return 0


if __name__ == "__main__":
    code = common.run(main)
    sys.stdout.flush()
    # A handler thread that hangs must not hold up the end; its lease runs out by itself.
    os._exit(code)
