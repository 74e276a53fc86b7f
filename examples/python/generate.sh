#!/usr/bin/env bash
# Generates the Python stubs of the API into ./generated: examples/python/generate.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")"
readonly PYTHON=${1:-python3}
readonly PROTO=../../proto

rm -rf generated
mkdir generated
# Paths are given relative to each root, because they become module names.
mapfile -t files < <(cd "$PROTO" && find tasktower -name '*.proto' | sort && cd third_party && find google -name '*.proto' | sort)
"$PYTHON" -m grpc_tools.protoc --proto_path "$PROTO" --proto_path "$PROTO/third_party" \
  --python_out generated --pyi_out generated --grpc_python_out generated "${files[@]}"
