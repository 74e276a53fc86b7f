#!/usr/bin/env bash
# Generates the Python stubs of the API and of the public protos it uses into target/python-stubs.
# Put that folder on PYTHONPATH, then: from tasktower.v1 import task_pb2, task_pb2_grpc
set -euo pipefail
cd "$(dirname "$0")/.."
readonly OUT=target/python-stubs
readonly PYTHON=target/venv/bin/python

if [ ! -x "$PYTHON" ]; then
  echo "python-stubs: no $PYTHON, run scripts/setup.sh python" >&2
  exit 1
fi
mkdir -p target
# Built aside and swapped in, so that a failure leaves the old stubs.
fresh=$(mktemp -d target/python-stubs.XXXXXX)
trap 'rm -rf "$fresh"' EXIT
# Paths are given relative to each root, because they become module names.
mapfile -t files < <(cd proto && find tasktower -name '*.proto' | sort && cd third_party && find . -name '*.proto' -printf '%P\n' | sort)
"$PYTHON" -m grpc_tools.protoc --proto_path proto --proto_path proto/third_party \
  --python_out "$fresh" --pyi_out "$fresh" --grpc_python_out "$fresh" "${files[@]}"
rm -rf "$OUT"
mv "$fresh" "$OUT"
