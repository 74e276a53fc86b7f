#!/usr/bin/env bash
# Checks the API: lint, format, and no break against what others use already.
#
# "What others use" is TASKTOWER_BREAKING_AGAINST if set, else origin/main, else the last tag; without any of them the
# comparison is left out, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly BUF=target/tools/bin/buf

"$BUF" lint
if ! "$BUF" format --path proto/tasktower --exit-code >/dev/null; then
  echo "proto: these files are not formatted, run make fmt:" >&2
  "$BUF" format --path proto/tasktower --diff | sed -n 's/^diff -u .* /  /p' >&2
  exit 1
fi

ref=${TASKTOWER_BREAKING_AGAINST:-}
if [ -z "$ref" ] && git rev-parse --quiet --verify origin/main >/dev/null 2>&1; then ref=origin/main; fi
if [ -z "$ref" ]; then ref=$(git describe --tags --abbrev=0 2>/dev/null || true); fi
if [ -z "$ref" ]; then
  echo "proto: SKIPPED buf breaking, there is neither origin/main nor a tag to compare with" >&2
  exit 0
fi
if ! git cat-file -e "$ref:buf.yaml" 2>/dev/null; then
  echo "proto: SKIPPED buf breaking, $ref has no API yet" >&2
  exit 0
fi
# A plain folder rather than buf's git input: works in a linked worktree and in a shallow clone too.
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
git archive "$ref" buf.yaml proto | tar -x -C "$before"
"$BUF" breaking --against "$before"
echo "proto: no break against $ref"
