#!/usr/bin/env bash
# Measures the release build on a fresh server for each database: scripts/bench.sh [sqlite] [postgres]
# Prints one JSON object for each scenario, with the database in front. Numbers compare only within one machine.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly TASKTOWER=target/release/tasktower
# Long enough for a steady state, short enough to be run on every change of the write path.
readonly SECONDS_EACH=10
# The server says `listening` within this time, migrations included.
readonly START_TIMEOUT_S=30

server_pid=
work=$(mktemp -d "${TMPDIR:-/tmp}/tasktower-bench.XXXXXX")
stop_server() {
  if [ -n "$server_pid" ]; then
    kill -TERM "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
    server_pid=
  fi
}
trap 'stop_server; rm -rf "$work"' EXIT

# start_server URL: sets endpoint.
start_server() {
  local deadline=$((SECONDS + START_TIMEOUT_S)) address=
  "$TASKTOWER" migrate up --database-url "$1" >"$work/migrate.log" 2>&1 || { cat "$work/migrate.log" >&2 && exit 1; }
  "$TASKTOWER" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --database-url "$1" \
    >"$work/server.out" 2>"$work/server.log" &
  server_pid=$!
  while [ -z "$address" ]; do
    if ! kill -0 "$server_pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      echo "bench: the server did not start; its log says:" >&2
      tail -n 30 "$work/server.log" >&2
      exit 1
    fi
    sleep 0.1
    address=$(sed -n 's/^listening grpc=\([^ ]*\).*/\1/p' "$work/server.out")
  done
  endpoint=http://$address
}

measure() {
  local database=$1
  shift
  # The JSON object is the last line; people's text goes before it.
  printf '%s\t%s\n' "$database" "$("$TASKTOWER" bench "$@" --endpoint "$endpoint" --json | tail -n 1)"
}

bench_on() {
  start_server "$2"
  measure "$1" lifecycle --tasks 100000 --workers 4 --batch 100
  measure "$1" submit --seconds $SECONDS_EACH --inflight 64
  measure "$1" latency --rate 200 --seconds $SECONDS_EACH
  stop_server
}

if [ $# -eq 0 ]; then set -- sqlite postgres; fi
for database in "$@"; do
  case $database in
    sqlite) bench_on sqlite "sqlite://$work/bench.db" ;;
    postgres)
      if [ -n "${TASKTOWER_TEST_DATABASE_URL:-}" ]; then
        bench_on postgres "$TASKTOWER_TEST_DATABASE_URL"
      else
        scripts/setup.sh postgres redis
        scripts/with-services.sh scripts/bench.sh postgres
      fi
      ;;
    *) echo "bench: unknown database: $database" >&2 && exit 2 ;;
  esac
done
