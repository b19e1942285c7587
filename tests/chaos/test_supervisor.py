"""The local stack's own promises when its processes are killed or can't start."""

import os
import signal
import socket

import psutil
import pytest
from local_stack import PROCESSES, Stack, devstack, free_layout, private_stack, processes_of
from scratch import scratch_folder
from waiting import wait_until

from devstack.layout import PORTS
from devstack.lock import is_alive

pytestmark = [pytest.mark.chaos, pytest.mark.plants_faults]


def is_listening(port):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", PROCESSES)
def test_killed_process_is_restarted_on_its_port(stack, name):
    old = stack.pid(name)
    others = {k: v for k, v in stack.document["processes"].items() if k != name}
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: stack.pid(name) != old, what=f"{name} has a new pid")
    if name in PORTS:
        wait_until(lambda: is_listening(stack.layout.ports[name]), what=f"{name} listens")
    assert is_alive(stack.pid(name))
    now = {k: v for k, v in stack.document["processes"].items() if k != name}
    assert now == others, "only what was killed was restarted"
    lines = stack.layout.log("supervisor").read_text(encoding="utf-8").splitlines()
    ended = next(number for number, line in enumerate(lines) if f" {name} ended: " in line)
    assert f" {name} started as pid " in lines[ended + 1], "at once, before anything else is looked at"


def test_while_the_gateway_restarts_the_edge_stays_and_takes_the_same_token_afterwards(stack):
    token = stack.token()
    edge, gateway = stack.pid("envoy"), stack.pid("gateway")
    os.kill(gateway, signal.SIGKILL)
    wait_until(lambda: stack.pid("gateway") != gateway, what="another gateway")
    wait_until(lambda: stack.request("GET", "/v1/payments", token).status_code == 200)
    assert stack.pid("envoy") == edge


def test_killed_worker_is_replaced_by_its_master(stack):
    master = psutil.Process(stack.pid("gateway"))
    old = wait_until(master.children, what="the gateway has a worker")
    old[0].kill()
    wait_until(
        lambda: any(child.pid != old[0].pid for child in master.children()),
        what="another worker",
    )
    assert stack.pid("gateway") == master.pid


def test_topics_are_back_after_the_broker_has_lost_them(stack):
    import requests  # noqa: PLC0415 - this test only

    url = f"{stack.layout.url('pubsub')}/v1/projects/partner-payments-local/subscriptions"

    def subscriptions():
        try:
            answer = requests.get(url, timeout=2).json()
        except requests.RequestException:
            return None
        return sorted((s["name"], s["pushConfig"]["pushEndpoint"]) for s in answer.get("subscriptions", []))

    before = wait_until(subscriptions)
    assert len(before) == 6
    old = stack.pid("pubsub")
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: stack.pid("pubsub") != old)
    wait_until(lambda: subscriptions() == before)


def test_second_up_is_refused_and_leaves_the_first_alone(stack):
    before = stack.document
    refused = devstack("up", stack.layout)
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert f"already running here (supervisor pid {before['processes']['supervisor']}" in refused.stderr
    assert stack.document == before
    assert all(map(is_alive, before["processes"].values()))


def test_status_names_every_process(stack):
    done = devstack("status", stack.layout)
    assert done.returncode == 0
    assert all(f"{name} " in done.stdout for name in (*PROCESSES, "supervisor"))
    assert " dead" not in done.stdout


def test_killed_reaper_is_replaced_and_knows_what_to_reap():
    with private_stack() as running:
        reaper = running.document["reaper"]
        os.kill(reaper, signal.SIGKILL)
        wait_until(lambda: running.document["reaper"] != reaper)
        assert_nothing_outlives_the_supervisor(running)


def assert_nothing_outlives_the_supervisor(running: Stack):
    supervisor = psutil.Process(running.pid("supervisor"))
    pids = [supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))]
    assert len(pids) > len(PROCESSES)
    supervisor.kill()
    wait_until(
        lambda: not [pid for pid in pids if is_alive(pid)] and not processes_of(running.layout),
        what="all processes gone",
    )
    assert not running.layout.stack_file.exists()


def test_nothing_outlives_a_killed_supervisor_and_the_next_up_works_at_once():
    with private_stack() as running:
        secret = running.document["partner"]["client_secret"]
        supervisor = psutil.Process(running.pid("supervisor"))
        supervisor.kill()
        again = devstack("up", running.layout)
        assert again.returncode == 0, again.stderr
        assert running.document["partner"]["client_secret"] == secret
        assert_nothing_outlives_the_supervisor(running)


def test_down_ends_every_process_in_order_and_leaves_the_data():
    with private_stack() as running:
        done = devstack("down", running.layout)
        assert done.returncode == 0
        # not killed after a while: the supervisor's last word
        assert running.layout.log("supervisor").read_text().rstrip().endswith("the stack is down")
        assert processes_of(running.layout) == []
        assert not running.layout.stack_file.exists()
        assert running.layout.data("postgres").exists()
        assert devstack("status", running.layout).returncode == 3
        assert "no stack is running" in devstack("down", running.layout).stdout


def assert_refused(layout, *, saying):
    done = devstack("up", layout)
    assert done.returncode == 1
    assert saying in done.stderr
    assert not layout.stack_file.exists()
    assert processes_of(layout) == []
    return done.stderr.strip().splitlines()


def test_port_in_use_is_one_line_and_nothing_is_started():
    with scratch_folder("bridge-stack-") as folder, socket.socket() as occupant:
        layout = free_layout(folder / "state")
        occupant.bind(("127.0.0.1", layout.ports["webhooks"]))
        occupant.listen()
        lines = assert_refused(layout, saying=f"port {layout.ports['webhooks']} for webhooks is in use")
        assert len(lines) == 1
        assert f"by pid {os.getpid()} (" in lines[0]
        assert "PORT_OFFSET=" in lines[0]
        assert not layout.data("postgres").exists()


def test_state_folder_that_is_a_file_is_one_line():
    with scratch_folder("bridge-stack-") as folder:
        layout = free_layout(folder / "state")
        layout.state_folder.write_text("")
        assert len(assert_refused(layout, saying=f"can't create the folder {layout.state_folder}")) == 1


def test_process_that_does_not_start_is_shown_with_its_last_words_and_the_others_are_stopped():
    with scratch_folder("bridge-stack-") as folder:
        layout = free_layout(folder / "state")
        layout.data("cloud_tasks.sqlite").mkdir(parents=True)
        lines = assert_refused(layout, saying="cloud_tasks did not start (exit code 1)")
        assert "can't use" in lines[-1]
