"""Processes that are started, measured and stopped here; CPU time and memory from /proc."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A server that has not said that it listens by then will not.
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
# No phase takes this long, filling a queue with a million tasks included.
PHASE_TIMEOUT_S = 600
# Between two looks into a store.
POLL_S = 0.005


class Failed(Exception):
    """A run that broke. It has no figures."""


def _stat(pid):
    """Parent, and CPU seconds of a process with its ended children, or None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces.
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICKS_PER_S


def cpu_seconds(root):
    """CPU time of a process and everything below it, ended or alive."""
    stats = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _stat(name))}
    total, todo = 0.0, [root]
    while todo:
        pid = todo.pop()
        if pid in stats:
            total += stats[pid][1]
            todo.extend(child for child, (parent, _) in stats.items() if parent == pid)
    return total


def parent_of(pid):
    stat = _stat(pid)
    return stat[0] if stat else None


def resident_bytes(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M).group(1)) * 1024


class Server:
    """A server process that is killed when the block ends; its log is kept beside and shown when it fails."""

    def __init__(self, name, command, log, listening=None):
        self.name, self.log = name, log
        self.began = time.monotonic()
        with open(log, "ab") as out:
            # One that says where it listens says nothing else there; others would fill a pipe that nobody reads.
            to = subprocess.PIPE if listening else out
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=to, stderr=out, text=True)
        self.pid = self.process.pid
        self.address = None
        try:
            if listening:
                self.address = self._wait_for_line(listening)
        except BaseException:
            self.stop()
            raise

    def _wait_for_line(self, pattern):
        # A server that says nothing would hold us for ever, so it is killed when its time is up.
        timer = threading.Timer(START_TIMEOUT_S, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                if found := re.search(pattern, line):
                    self.start_seconds = time.monotonic() - self.began
                    return found.group(1)
        finally:
            timer.cancel()
        raise Failed(f"{self.name} did not start; its log ends:\n{self.log_end()}")

    def log_end(self):
        return "".join(Path(self.log).read_text(errors="replace").splitlines(keepends=True)[-15:])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def run(command, env=None):
    """Runs a command to its end; its output is shown only when it fails."""
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def phase(command, at_begin, at_end, env=None, done=None):
    """Runs a client and answers the JSON object it ends with.

    `at_begin(pid)` and `at_end(pid)` are called when it says `measuring` and `measured` on stderr, and may read whatever
    they want of the machine at these moments. A client that cannot see its server's store asks `done?`; it is answered
    when `done()` is true.
    """
    pipe = subprocess.PIPE
    client = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    timer = threading.Timer(PHASE_TIMEOUT_S, client.kill)
    timer.start()
    # stdout is one line at the end, far below what a pipe holds, so reading stderr first cannot block.
    talk = []
    try:
        for line in client.stderr:
            talk.append(line)
            if line == "measuring\n":
                at_begin(client.pid)
            elif line == "measured\n":
                at_end(client.pid)
            elif line == "done?\n":
                while client.poll() is None and not done():
                    time.sleep(POLL_S)
                client.stdin.write("done\n")
                client.stdin.flush()
        out = client.stdout.read()
        code = client.wait()
    finally:
        timer.cancel()
        if client.poll() is None:
            client.kill()
            client.wait()
        for stream in (client.stdin, client.stdout, client.stderr):
            stream.close()
    if code != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {code}:\n{''.join(talk[-15:])}")
    return json.loads(out.strip().splitlines()[-1])
