"""A run on a Ray cluster of two nodes on this machine, one of which dies half-way."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import extractors
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from utils.errors import ParameterError
from utils.predict.command import predict

pytest.importorskip("ray", reason="needs requirements-ray.txt, which .ci/run installs")
RAY = Path(sys.executable).with_name("ray")
COUNT, PART = 250, 1  # Ray takes longer for a part than the model does
# Without a token: one that an earlier cluster of this user left would be asked of this one.
ENVIRONMENT = os.environ | {
    **{"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"},
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@pytest.fixture
def cluster():
    """The address of two nodes of one core each, and the processes of the second."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, place = f"127.0.0.1:{port}", tempfile.mkdtemp(prefix="r")  # short: a socket's path has 107 letters at most

    def start(*arguments):
        command = [RAY, "start", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--block", *arguments]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, start_new_session=True)

    nodes = [start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={place}")]
    _wait(lambda: _listens(port))
    nodes.append(start(f"--address={address}"))
    yield address, nodes[1]
    for node in nodes:
        _kill(node)
    shutil.rmtree(place, ignore_errors=True)


def _listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _works(node):
    """Whether the node has a worker."""
    processes = psutil.Process(node.pid).children(recursive=True)
    return any("MapWorker" in " ".join(process.cmdline()) for process in processes)


def _wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def _kill(node):
    """All at once, as when the power fails."""
    try:
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    node.wait()


@pytest.mark.slow
def test_a_node_that_dies_loses_no_photograph_and_doubles_none(tmp_path, monkeypatch, cluster):
    address, second = cluster
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(COUNT):
        Image.new("RGB", (60, 50), (index, 255 - index, 80)).save(tmp_path / f"photos/{index:03}.png")
    model = str(extractors.published("classifier").folder)
    predict(model, ["photos"], "alone.parquet", part=PART)
    command = [sys.executable, "-m", "utils.predict", model, "photos", "--output", "out.parquet"]
    command += ["--part", str(PART), "--ray", address]
    run = subprocess.Popen(command, env=ENVIRONMENT)
    parts = tmp_path / "out.parquet.parts"
    done = lambda: len(list(parts.glob("*.parquet")))  # noqa: E731
    _wait(lambda: _works(second) and done() > 3)
    _kill(second)
    assert done() < COUNT
    assert run.wait(timeout=300) == 0
    assert pq.read_table("out.parquet").equals(pq.read_table("alone.parquet"))


def test_a_cluster_that_cannot_be_reached_is_named_at_once(tmp_path, monkeypatch):
    from utils.predict.cluster import on_cluster

    with pytest.raises(ParameterError, match=r"127\.0\.0\.1:9: no cluster answers"):
        list(on_cluster("127.0.0.1:9", None, [0]))
