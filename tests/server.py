"""A server on this machine that answers as it is told."""

import base64
import dataclasses
import functools
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import tiny

from utils.checkpoints import http
from utils.families.variants import Source, get_variant

CONTENT = (tiny.GOLDEN / "convmixer_tiny.timm.pth.tar").read_bytes()


class Server:
    """Answers each path by the function in `answers`, else by `otherwise`; keeps the requests with their headers."""

    def otherwise(self, handler):
        not_found(handler)

    def __init__(self):
        self.answers = {}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                self.close_connection = True
                outer.answers.get(self.path, outer.otherwise)(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def variant(self):
        sources = tuple(Source(f"{self.url}/{layout}", layout) for layout in ("timm", "sequential"))
        return dataclasses.replace(get_variant("convmixer_tiny"), sources=sources)

    def paths(self):
        return [path for path, _ in self.requests]


@contextmanager
def folder_server(folder):
    """The address, without a slash at its end, of a server of the files in a folder."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def running(monkeypatch, count, kind=Server):
    """So many servers, and a client that is quick to ask again, in small pieces, and knows no proxy."""
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(http, "CHUNK_BYTES", 1024)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    servers = [kind() for _ in range(count)]
    yield servers
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def serving(model, change=lambda output: output):
    """An answer by a SavedModel, by the rules of TensorFlow Serving's "row format". change: of each output's array."""
    import tensorflow as tf

    def answer(handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        # One input, so each instance is that input's value; an object {"b64": …} stands for bytes.
        values = [
            base64.b64decode(instance["b64"], validate=True) if isinstance(instance, dict) else instance
            for instance in body["instances"]
        ]
        signature = model.signatures[body["signature_name"]]
        (argument,) = signature.structured_input_signature[1]
        outputs = signature(**{argument: tf.constant(values)})
        found = {name: change(value.numpy()).tolist() for name, value in outputs.items()}
        # Of several outputs, each prediction is an object; of one, its value.
        rows = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
        predictions = rows if len(found) > 1 else next(iter(found.values()))
        respond(handler, json.dumps({"predictions": predictions}).encode())

    return answer


def respond(handler, body, status=200, length=None, **headers):
    server = headers.pop("Server", "test")
    handler.version_string = lambda: server
    handler.send_response(status)
    if length != "none":
        handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def not_found(handler):
    respond(handler, b"Not Found", status=404)


def files(folder):
    return sorted(path.name for path in folder.iterdir())
