#!/usr/bin/env bash
# Compares the release build with its peers on this machine: scripts/bench.sh [--pairs N] [ROW...]
#
# Brings a throwaway PostgreSQL of default durability, unless TASKTOWER_TEST_DATABASE_URL has one, and hands over to
# benches/compare. Both sides use the same server. Numbers compare only within one run.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v python3 >/dev/null 2>&1 || scripts/setup.sh python

# A little more memory and WAL than the defaults: checkpoints in the middle of a run of seconds are noise.
settings='shared_buffers=256MB max_wal_size=4GB'
# Comes with PostgreSQL on most systems; without it statements are not counted.
if compgen -G '/usr/lib/postgresql/*/lib/pg_stat_statements.so' >/dev/null; then
  settings+=' shared_preload_libraries=pg_stat_statements'
fi
export TASKTOWER_TEST_POSTGRES_SETTINGS=$settings
# Nothing here needs Redis, so none is started.
export TASKTOWER_TEST_REDIS_URL=${TASKTOWER_TEST_REDIS_URL:-unused}
exec scripts/with-services.sh python3 benches/compare "$@"
