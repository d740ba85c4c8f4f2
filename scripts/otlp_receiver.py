"""Checks that OTLP is what others take it for, with two opinions that nobody here wrote.

    dogwatch ship, dogwatch up -> rotel (a real receiver, from PyPI) -> this script's HTTP server

What rotel passes on is decoded by PyPI's opentelemetry-proto and compared with what was sent. Logs:
the lines that were shipped, each exactly as it was (rotel batches in its own order). Traces: the
spans of a killed `dogwatch up`, as they lie in its spool, delivered by the next one. The same package
decodes the payloads of the spool's segments on disk, read by the format that src/telemetry/spool.rs
describes. Called by scripts/otlp_check.sh; needs nothing but the two packages.
"""

import gzip
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import rotel
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

LINES = 2000
SPANS_MIN = 20
SPOOL_BYTES = 40_000
LIMIT_SECONDS = 60
MESSAGES = {
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}
received = {path: [] for path in MESSAGES}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        message = MESSAGES[self.path]()
        message.ParseFromString(body)
        received[self.path].append(message)
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(done, what):
    end = time.monotonic() + LIMIT_SECONDS
    while not done():
        if time.monotonic() > end:
            sys.exit(f"otlp_receiver: not within {LIMIT_SECONDS} s: {what}")
        time.sleep(0.05)


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def shipped_lines():
    return [json.dumps({"message": f"line {n} grün", "level": "warn", "n": n, "half": n / 2}) for n in range(LINES)]


def segment_records(folder, wanted=2, message=LogRecord):
    """The payloads of all segments of one kind (2 logs, 3 spans), in order, decoded."""
    for path in sorted(folder.glob("spool/*/*.dws")):
        data = path.read_bytes()
        assert data[:8] == b"DOGWATCH", path
        at = 52
        while at + 36 <= len(data) and data[at : at + 4] == b"\xd7\x06\xf5\xa9":
            length = struct.unpack_from("<I", data, at + 4)[0]
            kind = data[at + 24]
            payload = data[at + 32 : at + 32 + length]
            if kind == wanted:
                record = message()
                record.ParseFromString(payload)
                assert record.SerializeToString(deterministic=True), "an empty record"
                yield record
            at += 32 + length + 4


def attributes(record):
    return {pair.key: pair.value for pair in record.attributes}


def check(records, where):
    mine = [record for record in records if record.body.string_value.startswith("line ")]
    texts = [record.body.string_value for record in mine]
    assert texts == [f"line {n} grün" for n in range(LINES)], (where, len(texts), texts[:3])
    for n, record in enumerate(mine):
        values = attributes(record)
        assert values["n"].int_value == n and values["half"].double_value == n / 2, (where, n, record)
        assert record.severity_number == 13, (where, n, record.severity_number)
    print(f"otlp_receiver: {where}: {len(mine)} of {LINES} lines, each as it was shipped")
    return mine


def ship(binary, folder, endpoint):
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                   "DOGWATCH_DATA_DIR": folder}
    command = [binary, "ship", "--source", "check"] + (["--wait-delivered"] if endpoint else [])
    return subprocess.run(command, input="\n".join(shipped_lines()) + "\n", text=True, env=environment,
                          capture_output=True, timeout=LIMIT_SECONDS, check=True)


def up(binary, folder, endpoint):
    """`dogwatch up` in the folder, on ports of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": folder, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                   "DOGWATCH_DATA_DIR": folder, "ORCHESTRATOR_POLL_SEC": "0.1",
                   "DOGWATCH_LISTEN": f"127.0.0.1:{free_port()}", "DOGWATCH_WATCH_LISTEN": f"127.0.0.1:{free_port()}"}
    return subprocess.Popen([binary, "up"], env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_traces(binary, folder, endpoint):
    """Spans on the disk of an `up` that was killed, and the same through rotel after the next one."""
    first = up(binary, folder, f"http://127.0.0.1:{free_port()}")
    try:
        until(lambda: sum(path.stat().st_size for path in pathlib.Path(folder).glob("spool/*/*.dws")) > SPOOL_BYTES,
              "spans lie in the spool")
    finally:
        first.kill()
        first.wait()
    on_disk = {span.span_id: span for span in segment_records(pathlib.Path(folder), 3, Span)}
    assert len(on_disk) >= SPANS_MIN, len(on_disk)
    assert all(len(span.trace_id) == 16 and len(span.span_id) == 8 and span.name for span in on_disk.values())
    assert {"cycle", "observe", "decide"} <= {span.name for span in on_disk.values()}, "the spans of a cycle"
    print(f"otlp_receiver: segments on disk: {len(on_disk)} spans decode")
    second = up(binary, folder, endpoint)

    def passed_on():
        return {span.span_id: span for message in list(received["/v1/traces"]) for resource in message.resource_spans
                for scope in resource.scope_spans for span in scope.spans}

    try:
        until(lambda: on_disk.keys() <= passed_on().keys(), "rotel passes all spans on")
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(LIMIT_SECONDS)
    through = passed_on()
    for span_id, span in on_disk.items():
        other = through[span_id]
        assert other.SerializeToString(deterministic=True) == span.SerializeToString(deterministic=True), (span, other)
    names = {attribute.key for message in received["/v1/traces"] for resource in message.resource_spans
             for attribute in resource.resource.attributes}
    assert {"service.name", "dogwatch.source_id", "dogwatch.boot_id"} <= names, names
    print(f"otlp_receiver: through rotel: {len(on_disk)} of {len(on_disk)} spans, each as it lay on disk")
    def linked():
        return sum(1 for message in list(received["/v1/logs"]) for resource in message.resource_logs
                   for scope in resource.scope_logs for record in scope.log_records if record.span_id in through)

    def metrics():
        return {metric.name for message in list(received["/v1/metrics"]) for resource in message.resource_metrics
                for scope in resource.scope_metrics for metric in scope.metrics}

    until(lambda: linked() > 0, "records name their span")
    until(lambda: "otel.sdk.log.created" in metrics(), "metrics are pushed")
    print(f"otlp_receiver: {linked()} records name their span; {len(metrics())} metrics were pushed")


def main(binary):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    http, grpc = free_port(), free_port()
    agent = pathlib.Path(rotel.__file__).parent / "rotel-agent"
    with tempfile.TemporaryDirectory() as folder:
        # Nobody listens there: the lines wait in the spool, where they are read.
        ship_held = pathlib.Path(folder, "held")
        ship_held.mkdir()
        held = dict(os.environ, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
                    DOGWATCH_DATA_DIR=str(ship_held))
        subprocess.run([binary, "ship", "--source", "check"], input="\n".join(shipped_lines()) + "\n", text=True,
                       env=held, timeout=LIMIT_SECONDS, check=True, capture_output=True)
        on_disk = check(segment_records(ship_held), "segments on disk")

        rotel_agent = subprocess.Popen(
            [agent, "start", "--otlp-http-endpoint", f"127.0.0.1:{http}", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc}",
             "--exporter", "otlp", "--otlp-exporter-endpoint", f"http://127.0.0.1:{server.server_port}",
             "--otlp-exporter-protocol", "http", "--pid-file", f"{folder}/rotel.pid"],
            stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            until(lambda: listens(http), "rotel listens")
            shipped = pathlib.Path(folder, "shipped")
            shipped.mkdir()
            ship(binary, str(shipped), f"http://127.0.0.1:{http}")

            def lines():
                return [record for message in list(received["/v1/logs"]) for resource in message.resource_logs
                        for scope in resource.scope_logs for record in scope.log_records]

            until(lambda: sum(1 for record in lines() if record.body.string_value.startswith("line ")) >= LINES,
                  "rotel passes all lines on")
            through = check(sorted(lines(), key=lambda record: attributes(record)["n"].int_value
                                   if "n" in attributes(record) else -1), "through rotel")
            traced = pathlib.Path(folder, "traced")
            traced.mkdir()
            check_traces(binary, str(traced), f"http://127.0.0.1:{http}")
        finally:
            rotel_agent.terminate()
            rotel_agent.wait(10)

        def same(record):
            record.ClearField("time_unix_nano")
            record.ClearField("observed_time_unix_nano")
            return record.SerializeToString(deterministic=True)

        different = sum(same(one) != same(other) for one, other in zip(on_disk, through))
        assert different == 0, f"{different} records changed on the way"
        print("otlp_receiver: what rotel passed on equals what is on disk, times left out (two runs)")
    server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
