"""Imports every generated module: a broken import path or a clash with an installed package shows here."""

import importlib
import pathlib
import sys

# PYTHONPATH follows the script's own folder.
stubs = pathlib.Path(sys.path[1])
modules = sorted(".".join(p.relative_to(stubs).with_suffix("").parts) for p in stubs.rglob("*.py"))
assert "tasktower.v1.task_pb2_grpc" in modules, modules
for module in modules:
    importlib.import_module(module)
