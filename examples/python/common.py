"""What client and worker share: the channel, credentials, and errors as one line of JSON.

Exit codes: 0 done, 1 local error, 2 usage, 3 the awaited task failed, 64 + the gRPC code when the server refused.
"""

import json
import os
import sys
from pathlib import Path

# The stubs of generate.sh; others on PYTHONPATH come first.
sys.path.append(str(Path(__file__).parent / "generated"))

try:
    import grpc
    from google.protobuf.json_format import MessageToDict
    from google.rpc import error_details_pb2, status_pb2
except ImportError as missing:
    print(json.dumps({"error": {"message": f"{missing}; see README.md: pip install, then generate.sh"}}), file=sys.stderr)
    sys.exit(1)

EXIT_LOCAL_ERROR = 1
EXIT_TASK_FAILED = 3
EXIT_REFUSED = 64

# Seconds a unary call may take; the server's own limit is the same.
CALL_TIMEOUT = 5.0

# gRPC repeats a call by itself only when the server is not available. Every call made here is safe to repeat: submits and
# leases carry a request id, reports carry the lease token.
SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "tasktower.v1.TaskService"}, {"service": "tasktower.v1.WorkerService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

CHANNEL_OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
]


def connect() -> grpc.Channel:
    """A channel to TASKTOWER_ADDRESS that carries TASKTOWER_TOKEN or TASKTOWER_API_KEY on every call."""
    address = (os.environ.get("TASKTOWER_ADDRESS") or "127.0.0.1:50051").removeprefix("http://").rstrip("/")
    channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    token, key = os.environ.get("TASKTOWER_TOKEN"), os.environ.get("TASKTOWER_API_KEY")
    if token:
        return grpc.intercept_channel(channel, _Credential("authorization", f"Bearer {token}"))
    if key:
        return grpc.intercept_channel(channel, _Credential("x-api-key", key))
    return channel


class _Credential(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, key, value):
        self._entry = (key, value)

    def _call(self, go_on, details, request):
        metadata = [*(details.metadata or []), self._entry]
        return go_on(details._replace(metadata=metadata), request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call


def to_json(message) -> dict:
    return MessageToDict(message, preserving_proto_field_name=True)


def say(value: dict):
    """One line of JSON for each result."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def reason_of(details) -> str:
    """The reason in the details of a google.rpc.Status: what programs branch on. Empty if there is none."""
    info = error_details_pb2.ErrorInfo()
    for detail in details:
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == "tasktower":
            return info.reason
    return ""


def refusal(error: grpc.RpcError) -> dict:
    """What the server said: code, reason, text, and the request id that leads to its log."""
    status, request_id = status_pb2.Status(), None
    for key, value in error.trailing_metadata() or []:
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
        elif key == "x-request-id":
            request_id = value
    return {
        "code": error.code().name,
        "reason": reason_of(status.details),
        "message": error.details(),
        "request_id": request_id,
    }


def run(main) -> int:
    """Runs a program; turns what goes wrong into one line of JSON on stderr and an exit code."""
    try:
        return main()
    except grpc.RpcError as error:
        print(json.dumps({"error": refusal(error)}), file=sys.stderr)
        return EXIT_REFUSED + error.code().value[0]
    except (OSError, ValueError) as error:
        print(json.dumps({"error": {"message": str(error)}}), file=sys.stderr)
        return EXIT_LOCAL_ERROR
    except KeyboardInterrupt:
        return 130
