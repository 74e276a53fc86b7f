#!/usr/bin/env python3
"""Submits, looks at, watches and cancels tasks. Every result is one line of JSON on stdout.

    client.py submit example.echo --input '{"text": "hello"}' --wait 30
    client.py watch --filter 'queue = "email"' --events 10
    client.py cancel projects/default/tasks/0198…
"""

import argparse
import json
import sys
import time
import uuid

import common
import grpc
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from tasktower.v1 import task_pb2, task_pb2_grpc

# Seconds the server holds one WaitTask open at most.
LONGEST_POLL = 30.0
# Seconds between two tries to open a watch again: the first wait, and the longest.
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0


def duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def task_name(args) -> str:
    return args.task if "/" in args.task else f"projects/{args.project}/tasks/{args.task}"


def submit(stub, args) -> int:
    task = task_pb2.Task(type=args.type, queue=args.queue, priority=args.priority, unique_key=args.unique_key)
    json_format.ParseDict(json.loads(args.input), task.input.json)
    task.labels.update(label.split("=", 1) for label in args.label)
    if args.delay:
        task.run_time.FromNanoseconds(time.time_ns() + int(args.delay * 1e9))
    if args.timeout:
        task.timeout.CopyFrom(duration(args.timeout))
    if args.max_attempts:
        task.retry.max_attempts = args.max_attempts
    # With a request id the call may be repeated: the second time answers what the first one did.
    request = task_pb2.SubmitTaskRequest(
        parent=f"projects/{args.project}", task=task, request_id=args.request_id or str(uuid.uuid4())
    )
    answer = stub.SubmitTask(request, timeout=common.CALL_TIMEOUT)
    common.say(common.to_json(answer))
    return wait_for(stub, answer.name, args.wait) if args.wait else 0


def get(stub, args) -> int:
    common.say(common.to_json(stub.GetTask(task_pb2.GetTaskRequest(name=task_name(args)), timeout=common.CALL_TIMEOUT).task))
    return 0


def wait(stub, args) -> int:
    return wait_for(stub, task_name(args), args.limit)


def wait_for(stub, name: str, limit: float) -> int:
    """Asks until the task is final. Its end decides the exit code; no end in time is DEADLINE_EXCEEDED."""
    deadline = time.monotonic() + limit
    while True:
        poll = max(0.0, min(LONGEST_POLL, deadline - time.monotonic()))
        request = task_pb2.WaitTaskRequest(name=name, wait=duration(poll))
        answer = stub.WaitTask(request, timeout=poll + common.CALL_TIMEOUT)
        if answer.done or time.monotonic() >= deadline:
            break
    common.say(common.to_json(answer.task))
    if not answer.done:
        return common.EXIT_REFUSED + grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    return 0 if answer.task.state == task_pb2.Task.STATE_SUCCEEDED else common.EXIT_TASK_FAILED


def cancel(stub, args) -> int:
    request = task_pb2.CancelTaskRequest(name=task_name(args), reason=args.reason)
    common.say(common.to_json(stub.CancelTask(request, timeout=common.CALL_TIMEOUT).task))
    return 0


def watch(stub, args) -> int:
    """Follows tasks. A stream that ends with UNAVAILABLE is opened again after the last token: nothing is lost."""
    request = task_pb2.WatchTasksRequest(
        parent=f"projects/{args.project}",
        filter=args.filter,
        task=task_name(args) if args.task else "",
        resume_token=args.resume_token,
        initial_state=args.initial_state,
    )
    seen, last_revision, pause = 0, 0, FIRST_WAIT
    while True:
        stream = stub.WatchTasks(request)
        try:
            for message in stream:
                pause = FIRST_WAIT
                for event in message.events:
                    kind = task_pb2.TaskEvent.Type.Name(event.type)
                    # A token from the middle of the initial state may leave some of it out: before SYNCED start over.
                    if kind == "TYPE_SYNCED":
                        request.initial_state = False
                    if kind == "TYPE_BOOKMARK" or 0 < event.revision <= last_revision:
                        continue
                    if kind != "TYPE_SYNCED":
                        last_revision = event.revision or last_revision
                    common.say({**common.to_json(event), "resume_token": message.resume_token})
                    seen += 1
                    if args.events and seen >= args.events:
                        stream.cancel()
                        return 0
                if not request.initial_state:
                    request.resume_token = message.resume_token or request.resume_token
            if args.task:
                # It ends well once the task is final.
                return 0
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
                raise
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_WAIT)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="default")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("submit", help="submit a task")
    command.set_defaults(run=submit)
    command.add_argument("type")
    command.add_argument("--input", default="null", metavar="JSON")
    command.add_argument("--queue", default="")
    command.add_argument("--priority", type=int, default=0)
    command.add_argument("--delay", type=float, default=0, metavar="SECONDS")
    command.add_argument("--timeout", type=float, default=0, metavar="SECONDS")
    command.add_argument("--max-attempts", type=int, default=0)
    command.add_argument("--unique-key", default="")
    command.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    command.add_argument("--request-id", default="")
    command.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for its end")

    for name, run, text in [("get", get, "show a task"), ("wait", wait, "wait for a task"), ("cancel", cancel, "cancel a task")]:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("task", help="name or id")
        if name == "wait":
            command.add_argument("--limit", type=float, default=60, metavar="SECONDS")
        if name == "cancel":
            command.add_argument("--reason", default="")

    command = commands.add_parser("watch", help="follow tasks, one line for each event")
    command.set_defaults(run=watch)
    command.add_argument("--task", default="", help="only this one; ends with it")
    command.add_argument("--filter", default="")
    command.add_argument("--initial-state", action="store_true", help="first what matches now")
    command.add_argument("--resume-token", default="", help="go on after this token")
    command.add_argument("--events", type=int, default=0, help="end after so many")

    parsed = parser.parse_args()
    if any("=" not in label for label in getattr(parsed, "label", [])):
        parser.error("a label is KEY=VALUE")
    return parsed


def main() -> int:
    args = arguments()
    with common.connect() as channel:
        return args.run(task_pb2_grpc.TaskServiceStub(channel), args)


if __name__ == "__main__":
    sys.exit(common.run(main))
