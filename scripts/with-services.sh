#!/usr/bin/env bash
# Runs a command beside throwaway PostgreSQL and Redis servers: scripts/with-services.sh COMMAND [ARGUMENT...]
#
# The command finds them in TASKTOWER_TEST_DATABASE_URL and TASKTOWER_TEST_REDIS_URL. Whichever of the two is set
# already is taken as it is and no server is started for it. Servers and data are gone when the command ends, however it
# ends; if a server does not start, its log is shown.
#
# TASKTOWER_TEST_POSTGRES_SETTINGS has more settings for PostgreSQL, as words: 'name=value name=value'.
#
# Durability is left as it is in production (fsync on): kill tests mean nothing without it.
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "usage: $0 COMMAND [ARGUMENT...]" >&2
  exit 2
fi

# Tests run many servers with a pool each.
readonly POSTGRES_MAX_CONNECTIONS=200
# A cold start on a loaded machine with two cores stays well below.
readonly START_TIMEOUT_S=60
# Another program may take the port between the choice and the start.
readonly PORT_TRIES=5

work=$(mktemp -d "${TMPDIR:-/tmp}/tasktower-services.XXXXXX")
# PostgreSQL runs as another user, which must be able to reach its folder inside.
chmod 711 "$work"
postgres_pid=
redis_pid=

stop_all() {
  # SIGQUIT is PostgreSQL's immediate shutdown: nothing in there is worth a checkpoint.
  if [ -n "$postgres_pid" ]; then kill -QUIT "$postgres_pid" 2>/dev/null || true; fi
  if [ -n "$redis_pid" ]; then kill -TERM "$redis_pid" 2>/dev/null || true; fi
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Below the range the kernel hands out to clients (32768 and up).
random_port() { echo $((20000 + RANDOM % 12000)); }

# wait_until PID COMMAND...: true once the command succeeds, false when the process is gone or time is up.
wait_until() {
  local pid=$1 deadline=$((SECONDS + START_TIMEOUT_S))
  shift
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then return 1; fi
    sleep 0.1
  done
  # Whoever answered must be the one that was started.
  kill -0 "$pid" 2>/dev/null
}

give_up() {
  echo "with-services: $1 did not start; its log says:" >&2
  tail -n 30 "$2" >&2 || true
  exit 1
}

start_postgres() {
  local initdb bin port setting data=$work/postgres log=$work/postgres.log as=() more=()
  for setting in ${TASKTOWER_TEST_POSTGRES_SETTINGS:-}; do more+=(-c "$setting"); done
  initdb=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1 || true)
  bin=$(dirname "${initdb:-$(command -v initdb || true)}")
  if [ ! -x "$bin/postgres" ]; then
    echo "with-services: PostgreSQL is missing, run scripts/setup.sh postgres" >&2
    exit 1
  fi
  mkdir "$data"
  if [ "$(id -u)" -eq 0 ]; then
    # PostgreSQL refuses to run as root. setpriv rather than runuser: it leaves no process between us and the server.
    as=(setpriv --reuid postgres --regid postgres --clear-groups)
    chown postgres "$data"
  fi
  # trust: only this machine reaches it, and it holds test data only. --no-sync: the data directory itself is throwaway.
  (cd / && "${as[@]}" "$bin/initdb" --pgdata "$data" --username postgres --auth trust --no-sync \
    --encoding UTF8 --locale C) >"$log" 2>&1 || give_up PostgreSQL "$log"

  for _ in $(seq $PORT_TRIES); do
    port=$(random_port)
    (cd / && exec "${as[@]}" "$bin/postgres" -D "$data" -p "$port" \
      -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
      -c max_connections=$POSTGRES_MAX_CONNECTIONS "${more[@]}") >>"$log" 2>&1 &
    postgres_pid=$!
    if wait_until "$postgres_pid" "$bin/pg_isready" -q -h 127.0.0.1 -p "$port"; then
      export TASKTOWER_TEST_DATABASE_URL=postgres://postgres@127.0.0.1:$port/postgres
      return
    fi
    kill -QUIT "$postgres_pid" 2>/dev/null || true
    wait "$postgres_pid" || true
  done
  give_up PostgreSQL "$log"
}

start_redis() {
  local port log=$work/redis.log
  if ! command -v redis-server >/dev/null; then
    echo "with-services: Redis is missing, run scripts/setup.sh redis" >&2
    exit 1
  fi
  for _ in $(seq $PORT_TRIES); do
    port=$(random_port)
    redis-server --bind 127.0.0.1 --port "$port" --dir "$work" --save '' --appendonly no >>"$log" 2>&1 &
    redis_pid=$!
    if wait_until "$redis_pid" redis-cli -h 127.0.0.1 -p "$port" ping; then
      export TASKTOWER_TEST_REDIS_URL=redis://127.0.0.1:$port
      return
    fi
    kill -TERM "$redis_pid" 2>/dev/null || true
    wait "$redis_pid" || true
  done
  give_up Redis "$log"
}

if [ -z "${TASKTOWER_TEST_DATABASE_URL:-}" ]; then start_postgres; fi
if [ -z "${TASKTOWER_TEST_REDIS_URL:-}" ]; then start_redis; fi
"$@"
