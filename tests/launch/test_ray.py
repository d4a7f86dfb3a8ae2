"""Fleets on a real Ray cluster of two nodes of one core each, on this machine."""

import signal
import subprocess
import sys

import pytest

from tests.launch.conftest import TABLE, children, until

pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[ray]')")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "temp_dir": sys.argv[1]} 
cluster = Cluster(initialize_head=True, head_node_args=small)
second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The cluster's process: a line to it ends the second node, the end of its input the cluster."""
    errors = tmp_path_factory.mktemp("ray") / "errors"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(tmp_path_factory.mktemp("r"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
        )
    address = process.stdout.readline().strip()
    assert address, errors.read_text()
    process.address = address
    yield process
    process.stdin.close()
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_tasks_on_two_nodes_ctrl_c_and_a_node_that_dies(launch, cluster):
    flags = ("--cluster=ray", "--tasks=2", f"--address={cluster.address}")
    launch.start(*flags, more=("--pause=60", "--meet=2"))  # both at the same time: each node has one core
    until(lambda: len(list(launch.results.glob("began_*"))) == 2, "both nodes work", 90)
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait(60) == 130, launch.said()
    assert launch.printed().count("saved its state") == 2
    assert not children(str(launch.results))

    for mark in launch.results.glob("began_*"):
        mark.unlink()
    launch.start(*flags, "--setup=export GREETING=hello", more=("--pause=2", "--meet=2"))
    until(lambda: len(list(launch.results.glob("began_*"))) == 2, "both nodes work", 90)
    cluster.stdin.write("\n")
    cluster.stdin.flush()
    assert launch.wait(120) == 0, launch.said()
    assert "NODE_FAIL, its machine failed" in launch.said() or "LOST" in launch.said()
    assert "try 2 of 3" in launch.said()
    assert launch.table() == TABLE


def test_a_task_that_no_node_could_run_is_refused(launch, cluster):
    launch.start("--cluster=ray", "--tasks=1", f"--address={cluster.address}", "--cpus=64")
    assert launch.wait(60) == 2
    assert "no node has 64 CPUs" in launch.said()


def test_a_cluster_that_is_not_there(launch):
    launch.start("--cluster=ray", "--tasks=1", "--address=127.0.0.1:1")
    assert launch.wait(90) == 2
    assert "no Ray cluster answers there" in launch.said()
