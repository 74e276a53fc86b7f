#!/usr/bin/env bash
# The crash lane in full, and its summary. Run by `make crash` beside a throwaway PostgreSQL; arguments choose parts:
#   make crash ARGS='crash::kills crash::paused'
# CRASH_SEED chooses the schedule of faults (a seed of the day unless given); CRASH=short does as little as `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

# Parts that wait more than they work; two at a time keep two cores busy and no more.
readonly PARTS_AT_A_TIME=2
seed=${CRASH_SEED:-$(date +%Y%m%d)}
report=target/crash/report
log=target/crash/log
mkdir -p target/crash
: >"$report"

export TASKTOWER_CRASH=${CRASH:-full} TASKTOWER_CRASH_SEED=$seed TASKTOWER_CRASH_REPORT=$PWD/$report
export TASKTOWER_TEST_REQUIRE_ALL=1

echo "crash: seed $seed; the log is in $log"
started=$SECONDS
status=0
${CARGO:-cargo} test --features failpoints --test it -- "${@:-crash::}" \
  --nocapture --test-threads "$PARTS_AT_A_TIME" >"$log" 2>&1 || status=$?

echo "crash: what was done"
sort "$report" | sed 's/^/  /'
if [ "$status" -ne 0 ]; then
  echo "crash: FAILED after $((SECONDS - started)) s with seed $seed"
  grep -E "panicked at|^[0-9]+ violations|^[A-Za-z]+: |not within|FAILED" "$log" | grep -v "^PostgreSQL: \|^SQLite: " | head -n 40
  exit "$status"
fi
grep -h "^test result" "$log"
echo "crash: passed after $((SECONDS - started)) s with seed $seed"
