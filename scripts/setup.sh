#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: scripts/setup.sh [cc] [rust] [postgres] [redis] [python] [buf]
# and, for `make bench` only, [npm]
#
# What is there already is used as it is, so a second run needs no network. System packages come from apt, as root or
# through sudo; everything else stays under target/. On a system without apt it says what to install by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly BUF_VERSION=1.75.0
readonly TOOLS=target/tools
readonly VENV=target/venv
readonly REQUIREMENTS=tests/python/requirements.txt

say() { echo "setup: $*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

apt_updated=no
install_packages() {
  local as_root=()
  if ! have apt-get; then
    say "please install by hand, there is no apt-get here: $*"
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if ! have sudo; then
      say "please run as root or install sudo, these packages are missing: $*"
      exit 1
    fi
    as_root=(sudo)
  fi
  if [ "$apt_updated" = no ]; then
    "${as_root[@]}" apt-get update -qq >&2
    apt_updated=yes
  fi
  say "installing $*"
  # RUNLEVEL=1 keeps the packages from starting their own services: the tests start throwaway ones.
  "${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

setup_cc() {
  have cc || install_packages gcc libc6-dev
}

setup_rust() {
  if ! have cargo; then
    say "Rust is missing, see https://rustup.rs"
    exit 1
  fi
  cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
  cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

setup_postgres() {
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || have initdb || install_packages postgresql
}

setup_redis() {
  have redis-server || install_packages redis-server
}

setup_python() {
  # The stamp is a copy of what was asked for, so a changed pin reinstalls and an unchanged one costs nothing.
  if cmp -s "$REQUIREMENTS" "$VENV/requirements.stamp"; then return; fi
  # ensurepip is what Debian splits off into python3-venv.
  if ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then install_packages python3 python3-venv; fi
  say "python packages into $VENV"
  rm -rf "$VENV"
  python3 -m venv "$VENV"
  "$VENV/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$REQUIREMENTS"
  cp "$REQUIREMENTS" "$VENV/requirements.stamp"
}

setup_npm() {
  have npm || install_packages npm
}

setup_buf() {
  local link=$TOOLS/bin/buf
  is_our_buf() { [ "$("$1" --version 2>/dev/null)" = "$BUF_VERSION" ]; }

  if is_our_buf "$link"; then return; fi
  mkdir -p "$TOOLS/bin"
  if have buf && is_our_buf buf; then
    ln -sfn "$(command -v buf)" "$link"
    return
  fi
  # npm is where buf can be had as a package with a checksum.
  setup_npm
  say "buf $BUF_VERSION into $TOOLS"
  npm install --loglevel error --no-audit --no-fund --prefix "$TOOLS/npm" "@bufbuild/buf@$BUF_VERSION" >&2
  ln -sfn ../npm/node_modules/.bin/buf "$link"
  if ! is_our_buf "$link"; then
    say "buf does not run: $link"
    exit 1
  fi
}

if [ $# -eq 0 ]; then set -- cc rust postgres redis python buf; fi
for part in "$@"; do
  case $part in
    cc | rust | postgres | redis | python | buf | npm) "setup_$part" ;;
    *) say "unknown part: $part" && exit 2 ;;
  esac
done
