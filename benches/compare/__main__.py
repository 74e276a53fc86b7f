"""Compares tasktower with its peers on this machine: python3 benches/compare [--pairs N] [ROW...]

Run by `make bench`, which builds and installs first and brings a throwaway PostgreSQL. Cast: `rows` is the table, `sides`
knows how each program does the work, `process` and `postgres` run and observe them, `stats` and `report` tell.
Ctrl-C ends it with a table of the rounds that are complete.

In each round every side runs once, on a fresh database, and the order turns from round to round, so that drift of the
machine falls on all alike. A ratio is of two runs of the same round. The first round is not timed: it warms the caches
and counts statements. A side that fails has no figure in its round; one that fails twice is out, loudly.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from postgres import Postgres
from process import Failed
from report import print_asks, print_sides, print_table
from rows import MANY, OURS, PEERS, ROWS
from sides import TASKTOWER, Sides, missing

RESULTS = Path("target/bench")
MOST_FAILURES = 2


def arguments():
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="compare", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all, or some of: {' '.join(names)}")
    parser.add_argument("--pairs", type=int, default=10, help="timed rounds of each row (default 10)")
    parser.add_argument(
        "--finished", type=int, default=MANY, help=f"finished tasks of the history rows (default {MANY:,})"
    )
    parser.add_argument("--only", action="append", default=[], choices=PEERS, help="only this peer; may be repeated")
    chosen = parser.parse_args()
    for name in chosen.rows:
        if name not in names:
            parser.error(f"there is no row {name}; there are {' '.join(names)}")
    return chosen


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_row(row, sides, pairs, absent, only):
    """Runs the rounds of a row; answers the timed ones, the counting one, what did not run and why, and whether it was
    stopped."""
    not_run = {}
    pairs = min(pairs, row.most_rounds or pairs)
    with ExitStack() as stack:
        ways = row.prepare(sides, stack)
        for name in list(ways):
            if name in absent:
                not_run[name] = absent[name]
            if name in absent or only and name in PEERS and name not in only:
                del ways[name]
        rounds, counted, stopped = [], {}, False
        failures = dict.fromkeys(ways, 0)
        try:
            for turn in range(-1, pairs):
                figures = run_round(row, sides, ways, turn, failures, not_run)
                if turn < 0:
                    counted = figures
                else:
                    rounds.append(figures)
        except KeyboardInterrupt:
            stopped = True
    return rounds, counted, not_run, stopped


def run_round(row, sides, ways, turn, failures, not_run):
    """Every side once; the round before the first counts statements and is not timed."""
    sides.counting = turn < 0
    sides.postgres.count_statements(sides.counting)
    names = list(ways)
    first = turn % len(names)
    figures = {}
    for name in names[first:] + names[:first]:
        try:
            figures[name] = ways[name]()
        except Failed as failure:
            say(f"bench: {row.name}: {name} FAILED: {failure}")
            failures[name] += 1
            if failures[name] >= MOST_FAILURES:
                if name == OURS:
                    raise
                not_run[name] = f"failed {MOST_FAILURES} times, the last time: {failure}"
                del ways[name]
    if turn >= 0:
        value = row.values[0]
        told = ", ".join(f"{name} {figure.values[value.key]:,.1f}" for name, figure in figures.items())
        say(f"  {row.name} {turn + 1}: {told} ({value.unit})")
    return figures


def keep(row, rounds, counted):
    """The raw figures, for whoever wants to look closer."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    told = [{name: vars(figures) for name, figures in run.items()} for run in rounds]
    content = {"row": row.name, "rounds": told, "counted": {name: vars(f) for name, f in counted.items()}}
    stamp = time.strftime("%Y%m%d-%H%M%S")
    (RESULTS / f"{stamp}-{row.name}.json").write_text(json.dumps(content, indent=1))


def main():
    chosen = arguments()
    # Like Ctrl-C: what was started is stopped, and what was measured is told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not TASKTOWER.exists():
        sys.exit("bench: target/release/tasktower is missing; make bench builds it")
    url = os.environ.get("TASKTOWER_TEST_DATABASE_URL")
    if not url:
        sys.exit("bench: TASKTOWER_TEST_DATABASE_URL is not set; make bench starts a PostgreSQL and sets it")
    postgres = Postgres(url)
    absent = missing()
    for name, reason in absent.items():
        say(f"bench: {name} CANNOT RUN: {reason}; its lines say NOT RUN")
    print(f"PostgreSQL {postgres.version}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    if not postgres.counts_statements:
        print("pg_stat_statements is not loaded: statements are not counted")

    work = Path(tempfile.mkdtemp(prefix="tasktower-bench-"))
    table, left_out, stopped = [], [], False
    try:
        sides = Sides(postgres, work, chosen.finished)
        for row in ROWS:
            if stopped or chosen.rows and row.name not in chosen.rows:
                continue
            print(f"\n{row.name}: {row.title}", flush=True)
            try:
                rounds, counted, not_run, stopped = run_row(row, sides, chosen.pairs, absent, chosen.only)
            except Failed as failure:
                say(f"bench: {row.name} FAILED: {failure}")
                left_out.append(f"{row.name}: {str(failure).splitlines()[0]}")
                continue
            except KeyboardInterrupt:
                break
            keep(row, rounds, counted)
            print_sides(row, rounds, counted, [OURS, *(name for name in counted if name != OURS)])
            for name, reason in not_run.items():
                print(f"  {name}: NOT RUN: {reason}")
                left_out.append(f"{row.name}: {name}: {reason.splitlines()[0]}")
            table += print_asks(row, rounds, OURS)
            sys.stdout.flush()
            # Databases on files are large, and their rows are over.
            for folder in work.glob("*-*"):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print()
    print_table(table)
    for line in left_out:
        print(f"NOT RUN {line}")
    if stopped:
        print("STOPPED: the rows after that are missing, and the last has fewer rounds")
    return 1 if left_out or stopped else 0


if __name__ == "__main__":
    sys.exit(main())
