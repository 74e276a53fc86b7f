#!/usr/bin/env bash
# Installs the peers that `make bench` measures beside us: benches/peers/setup.sh [node] [cronoq] [client]
#
# Everything goes under target/peers; versions are pinned here, in node/package-lock.json and in rust/Cargo.lock. What
# is there already is kept, so a second run needs no network. Ends with 1 if a part could not be installed, after it
# tried the others: the runner then reports what is missing as not run.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly CRONOQ_VERSION=0.2.1
readonly HERE=benches/peers
readonly INTO=target/peers
# One folder for all Rust of the peers, so that what they share is built once. Not ours: other lock file, other features.
export CARGO_TARGET_DIR=$INTO/build

say() { echo "peers: $*" >&2; }

setup_node() {
  # npm ci installs exactly what the lock file has, node itself included: the peers want a newer one than systems have.
  # Node finds packages beside the script that asks for them.
  mkdir -p "$INTO/node"
  cp "$HERE"/node/*.mjs "$INTO/node/"
  if cmp -s "$HERE/node/package-lock.json" "$INTO/node/installed.stamp"; then return; fi
  command -v npm >/dev/null 2>&1 || scripts/setup.sh npm
  say "node, graphile-worker and pg-boss into $INTO/node"
  rm -rf "$INTO/node/node_modules"
  cp "$HERE/node/package.json" "$HERE/node/package-lock.json" "$HERE/node/.npmrc" "$INTO/node/"
  npm ci --prefix "$INTO/node" --loglevel error --no-audit --no-fund --ignore-scripts >&2
  cp "$HERE/node/package-lock.json" "$INTO/node/installed.stamp"
}

setup_cronoq() {
  local installed
  installed=$("$INTO/cronoq/bin/cronoq-server" --version 2>/dev/null || true)
  if [[ $installed == *"$CRONOQ_VERSION"* ]]; then return; fi
  say "cronoq-server $CRONOQ_VERSION into $INTO/cronoq (some minutes)"
  cargo install --quiet --locked cronoq-server --version "$CRONOQ_VERSION" --root "$INTO/cronoq" >&2
}

setup_client() {
  cargo build --quiet --locked --release --manifest-path "$HERE/rust/Cargo.toml"
}

if [ $# -eq 0 ]; then set -- node cronoq client; fi
failed=
for part in "$@"; do
  case $part in
    # A function called in a condition would run on after an error inside, so each part is a process of its own.
    node | cronoq | client) (set -e; "setup_$part") & wait $! || failed="$failed $part" ;;
    *) say "unknown part: $part" && exit 2 ;;
  esac
done
if [ -n "$failed" ]; then
  say "COULD NOT INSTALL:$failed"
  exit 1
fi
