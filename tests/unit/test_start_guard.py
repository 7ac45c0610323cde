"""The start guard: its waits, its reports, and how the hub adds it to user pods."""

import asyncio
import itertools
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from traitlets.config import Config

from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses
from binder_egress.pods import start_guard
from binder_egress.pods.start_guard import introduce, watch
from binder_egress.proxy.connections import Proxy
from binder_egress.proxy.decide import Policy
from binder_egress.proxy.limits import Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.resolve import Resolver
from tests.support import TOP
from tests.support.egress_proxy.loopback import publish, served
from tests.support.start_guard import SNIPPET, VALUES, made_spawner, spawner_after

TARGETS = [("192.0.2.1", 443), ("192.0.2.2", 443)]


class Network:
    """A double of the network and the clock. `open` returns whether a connection succeeds, given a time in seconds and a target."""

    def __init__(self, open, connect=0.0):
        self.open, self.connect, self.now = open, connect, 0.0

    def connects(self, target):
        opened = self.open(self.now, target)
        self.now += 0.0 if opened else self.connect
        return opened

    def sleep(self, seconds):
        self.now += seconds

    def watch(self, timeout=10.0, targets=TARGETS):
        return watch(targets, timeout, self.connects, lambda: self.now, self.sleep)


# -- what it waits for


def test_guard_waits_until_an_open_target_is_blocked_several_times():
    seen = Network(lambda now, _: now < 0.42).watch()
    assert seen["outcome"] == "closed"
    pause = start_guard.PAUSE_SECONDS
    assert seen["seconds"] == pytest.approx(0.42 + start_guard.BLOCKED_AFTER_OPEN * pause, abs=pause)
    assert seen["through"] == 9


def test_target_that_is_blocked_only_at_times_counts_as_open():
    # Two of three tries fail, as with a target that loses packets, and not as with a policy.
    tries = iter(range(10_000))
    seen = Network(lambda *_: next(tries) % 3 == 0).watch(targets=TARGETS[:1])
    assert (seen["outcome"] in ("open", "unclear"), seen["seconds"] > 9.9) == (True, True)


@pytest.mark.parametrize(
    ("open", "until"),
    [
        pytest.param(lambda now, target: target == TARGETS[1] and now < 3, 3, id="one target is open"),
        pytest.param(lambda now, _: 0.2 <= now < 0.8, 0.8, id="the pod's network comes up after 0.2 s, the policies after 0.8 s"),
    ],
)
def test_guard_waits_until_no_target_is_open(open, until):
    seen = Network(open).watch()
    assert (seen["outcome"], seen["seconds"] > until) == ("closed", True)


@pytest.mark.parametrize(
    ("answers", "tries"),
    [
        pytest.param([False], 6, id="refused"),
        pytest.param([None], 3, id="dropped"),
        pytest.param([None, False], 4, id="dropped and refused by turns"),
    ],
)
def test_target_that_is_blocked_from_the_start_is_looked_at_longer(answers, tries):
    answer = itertools.cycle(answers)
    seen = Network(lambda *_: next(answer)).watch(targets=TARGETS[:1])
    assert (seen["outcome"], seen["tries"]) == ("blocked", tries)


def test_silence_counts_once_after_an_open_look_and_beside_a_refusal():
    assert Network(lambda now, _: None if now else True).watch()["tries"] == 1 + start_guard.BLOCKED_AFTER_OPEN
    assert Network(lambda _, target: None if target == TARGETS[0] else False).watch()["tries"] == 6


def test_guard_waits_no_longer_than_its_timeout():
    seen = Network(lambda *_: True).watch(timeout=2)
    assert (seen["outcome"], 1.9 <= seen["seconds"] <= 2) == ("open", True)
    # A plugin that drops packets makes each try take long.
    seen = Network(lambda now, _: now < 1.9, connect=0.15).watch(timeout=2)
    assert (seen["outcome"], seen["seconds"] <= 2.4) == ("unclear", True)


def test_guard_knows_whether_it_can_connect_at_all():
    assert start_guard.able()
    assert not start_guard.able(lambda _: False)
    assert not start_guard.able(lambda _: None)


def test_look_tells_refusal_from_silence():
    assert start_guard.connects(("127.0.0.1", 9)) is False
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        assert start_guard.connects(full.getsockname()) is None
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert start_guard.connects(listener.getsockname()[:2]) is True


# -- the egress proxy's view of the pod

PROXY = ("192.0.2.3", 3128)


class EgressProxy:
    """A double of the egress proxy and the clock. `says` is its answer, given a time in seconds: a uid, "" or an exception."""

    def __init__(self, says):
        self.says, self.now, self.asked = says, 0.0, 0

    def ask(self, proxy, timeout):
        assert proxy == PROXY and timeout > 0
        self.asked += 1
        said = self.says(self.now)
        if isinstance(said, Exception):
            self.now += min(timeout, start_guard.ASK_CONNECT_SECONDS)
            raise said
        self.now += 0 if said else min(timeout, 2.0)  # as long as it waits for an unknown pod
        return {"address": "10.42.0.5"} | ({"uid": said} if said else {})

    def sleep(self, seconds):
        self.now += seconds

    def introduce(self, timeout=10.0):
        return introduce(PROXY, "mine", timeout, self.ask, lambda: self.now, self.sleep)


LINK_LOCAL = """
import subprocess, _socket
from binder_egress.pods.start_guard import connects
for command in (
    "ip link set lo up",
    "ip link add one type veth peer name two",
    "ip link set one up",
    "ip link set two up",
    "ip -6 address add fe80::7/64 dev one nodad",
):
    subprocess.run(command.split(), check=True)
listener = _socket.socket(_socket.AF_INET6)
listener.bind(("fe80::7", 8000, 0, _socket.if_nametoindex("one")))
listener.listen()
print(connects(("fe80::7%one", 8000)), connects(("fe80::7%one", 8001)))
"""


def test_look_at_a_link_local_address_goes_out_of_its_interface():
    inside = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", LINK_LOCAL], capture_output=True, text=True, timeout=30, check=True
    )
    assert inside.stdout == "True False\n"


@pytest.mark.parametrize(("before", "most_seconds"), [("", 5), ("of-the-address-before", 3.5)])
def test_guard_asks_until_the_proxy_knows_it(before, most_seconds):
    proxy = EgressProxy(lambda now: "mine" if now > 3 else before)
    assert proxy.introduce() == ""
    assert 3 < proxy.now < most_seconds and proxy.asked < 30


@pytest.mark.parametrize(
    "answers",
    [
        # Each answer may come from another pod of the proxy, and one of those may be behind.
        ["mine", "mine", "mine", "mine", "of-the-address-before"] * 3 + ["mine"] * start_guard.ANSWERS,
        # The proxy may let a server connect once a second.
        ["mine", "mine", ValueError(), "mine", OSError(), "mine", "mine"],
    ],
    ids=["another pod's", "failures"],
)
def test_guard_believes_several_answers_in_a_row(answers):
    left = iter(answers)
    proxy = EgressProxy(lambda _: next(left))
    assert proxy.introduce() == "" and next(left, None) is None


@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        ("of-the-address-before", "mistaken_by_proxy"),
        ("", "unknown_to_proxy"),
        (OSError(), "unknown_to_proxy"),
        (ValueError(), "unknown_to_proxy"),
    ],
)
def test_proxy_holds_the_guard_no_longer_than_the_timeout(says, outcome):
    proxy = EgressProxy(lambda _: says)
    assert proxy.introduce() == outcome
    assert proxy.now == pytest.approx(10)
    assert EgressProxy(lambda _: says).introduce(timeout=-0.1) == "unknown_to_proxy"


# -- settings


def test_targets_are_addresses_with_ports():
    assert start_guard.parse("10.43.0.1:443, [fd00::1]:8080") == [("10.43.0.1", 443), ("fd00::1", 8080)]
    for text in ("10.43.0.1", ":443", "10.43.0.1:https"):
        with pytest.raises(ValueError):
            start_guard.parse(text)


def test_default_target_is_the_kubernetes_api():
    api = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert start_guard.targets_of(api) == [("fd00::1", 443)]
    assert start_guard.targets_of({**api, start_guard.TARGETS_VARIABLE: "192.0.2.1:80"}) == [("192.0.2.1", 80)]


# -- as a process


def run(targets, timeout="0.5", isolated="true", **more):
    """Run the guard as the init container does. Returns its report and the seconds that it took."""
    environment = {"BINDER_EGRESS_ISOLATED": isolated, start_guard.TARGETS_VARIABLE: targets, start_guard.TIMEOUT_VARIABLE: timeout}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from binder_egress.commands.binder_egress import main; main()", "start-guard"],
        cwd=TOP / "verifier", env={"PATH": os.environ["PATH"], **environment, **more}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("start guard: ")
    return json.loads(done.stdout.removeprefix("start guard: ")), time.monotonic() - began


@pytest.fixture
def open_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield "127.0.0.1:{1}".format(*listener.getsockname())


@pytest.mark.parametrize("targets", ["nonsense", ""])
def test_process_waits_and_succeeds_with_unreadable_targets_and_without_a_folder_for_the_extension(targets):
    seen, seconds = run(targets, BINDER_EGRESS_LAB="/nowhere", BINDER_EGRESS_URL="https://hub.example.org/")
    assert (seen["outcome"], 0.5 <= seconds < 60) == ("unable", True)
    assert seen["lab"].startswith("FileNotFoundError")


def run_with_proxy(address, timeout="20"):
    proxy = "http://{}:{}".format(*address)
    # Nobody listens on that port, so connections are refused.
    return run("127.0.0.1:9", timeout, **{start_guard.PROXY_VARIABLE: proxy, start_guard.UID_VARIABLE: "mine"})


async def test_process_ends_once_the_proxy_knows_the_pod():
    """The address was another pod's a moment ago, as when an address is reused immediately."""
    proxy = Proxy(Policy({}), Limits(), Resolver(), Metrics(), identity_wait_seconds=0.2)
    publish(proxy, "verified")
    async with served(proxy) as address:
        running = asyncio.create_task(asyncio.to_thread(run_with_proxy, address))
        await asyncio.sleep(2)
        mine = PodAddresses("mine", "bob", "", ("127.0.0.1",), "verified")
        proxy.identities.apply(AddressChange(AddressVersion(1), "bob/", (mine,)))  # claimed twice
        await asyncio.sleep(1)
        proxy.identities.apply(AddressChange(AddressVersion(2), "alice/", ()))
        seen, seconds = await running
    assert (seen["outcome"], seconds > 2.5) == ("blocked", True)


@pytest.mark.parametrize("answer", [(b"HTTP/1.1 200 OK\r\nX: ", b"a"), (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536)])
def test_proxy_that_answers_without_an_end_holds_up_no_launch(answer):
    """As one does that an intruder has taken over: a byte at a time, or more than the guard's memory holds."""
    first, more = answer

    class Answers(socketserver.BaseRequestHandler):
        def handle(self):
            end = time.monotonic() + 20
            with suppress(OSError):
                self.request.sendall(first)
                while time.monotonic() < end:
                    self.request.sendall(more)
                    time.sleep(0.1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        seen, _ = run_with_proxy(server.server_address, "2")
        server.shutdown()
    assert (seen["outcome"], seen["seconds"] < 5) == ("unknown_to_proxy", True)


def test_process_does_not_ask_before_the_pod_is_isolated(open_port):
    """That the proxy does not know the pod must not hide that the pod is open."""
    seen, _ = run(open_port, **{start_guard.PROXY_VARIABLE: f"http://{open_port}", start_guard.UID_VARIABLE: "mine"})
    assert seen["outcome"] == "open"


def test_process_does_not_wait_without_policies(open_port):
    seen, _ = run(open_port, timeout="1000", isolated="")  # The process has less time than that.
    assert seen["outcome"] == "off"


def modules(code):
    """The modules that a new interpreter has loaded after this code."""
    code = f"import sys; sys.path.insert(0, sys.argv[1]); {code}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code, str(TOP / "verifier")]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


def test_guard_needs_only_the_standard_library_and_loads_nothing_that_is_slow():
    """Nothing that is written in Python: processor time of every launch (D-525)."""
    run = "import sys; sys.argv[1:] = ['start-guard']; from binder_egress.commands.binder_egress import main; main()"
    own = modules(run) - modules("import os")
    assert own & sys.stdlib_module_names <= {"__future__", "_socket", "time"}
    ours = {name for name in own if name.split(".")[0] not in sys.stdlib_module_names and not name.startswith("_")}
    command = {"binder_egress.commands", "binder_egress.commands.binder_egress"}
    assert ours == {"binder_egress", *command, "binder_egress.pods", "binder_egress.pods.start_guard"}


# -- in the hub


def load(config=None, guard=None):
    """Run the snippet as the hub does, without the JupyterLab extension. Returns the init containers of a spawner."""
    return made_spawner(config, {**VALUES, "jupyterlab": False, **(guard or {})}).init_containers


def test_hub_adds_the_guard():
    (container,) = load()
    assert container["name"] == "binder-egress-start-guard"
    assert container["image"] == "verifier:1"
    assert container["command"] == ["binder-egress", "start-guard"]
    assert "imagePullPolicy" not in container
    variables = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}
    assert variables == {
        start_guard.ISOLATED_VARIABLE: {
            "configMapKeyRef": {"name": "binder-egress-start-guard", "key": "isolated", "optional": True}
        },
        start_guard.PROXY_VARIABLE: {
            "configMapKeyRef": {"name": "binder-egress-proxy-variables", "key": "address", "optional": True}
        },
        start_guard.UID_VARIABLE: {"fieldRef": {"fieldPath": "metadata.uid"}},
        start_guard.TIMEOUT_VARIABLE: "10",
        start_guard.TARGETS_VARIABLE: "",
    }
    (container,) = load(guard={"image": "i:2", "pullPolicy": "Always", "timeout": 3, "targets": "192.0.2.1:80", "resources": {}})
    assert (container["image"], container["imagePullPolicy"], container["resources"]) == ("i:2", "Always", {})
    assert [entry.get("value") for entry in container["env"]] == [None, None, None, "3", "192.0.2.1:80"]


def appended(c):
    c.KubeSpawner.init_containers.append({"name": "tc-init"})


def of_the_subclass(c):
    c.KubeSpawner.init_containers = [{"name": "hidden"}]
    c.BinderSpawner.init_containers = [{"name": "tc-init"}]


@pytest.mark.parametrize(
    "configure",
    [
        lambda c: c.KubeSpawner.update(init_containers=[{"name": "tc-init"}]),
        lambda c: c.KubeSpawner.update(init_containers={"tc-init": {"name": "tc-init"}}),
        appended,
        of_the_subclass,
    ],
    ids=["list", "names", "appended", "of the subclass"],
)
def test_guard_comes_last_and_configured_containers_stay(configure):
    c = Config()
    configure(c)
    found = load(c)
    containers = found if isinstance(found, list) else [found[key] for key in sorted(found)]
    assert [container["name"] for container in containers] == ["tc-init", "binder-egress-start-guard"]


def test_hub_starts_with_any_values_of_the_guard(capsys):
    assert load(guard={"pullPolicy": None, "timeout": None}) != []
    c = Config()
    c.KubeSpawner.init_containers = ()
    namespace = {"c": c, "get_config": lambda *_: {"enabled": True}}
    exec(SNIPPET, namespace)
    assert "no start guard: KeyError" in capsys.readouterr().out


def test_without_an_image_pods_start_without_a_guard(capsys):
    """A container without an image would be refused, and every launch with it. A checkout names none."""
    assert load(guard={"image": ""}) == []
    assert "no start guard: ValueError: custom.binderEgress.startGuard.image is empty" in capsys.readouterr().out


def compared(capsys, wanted, **configured):
    """What the hub says about its labels, which its configuration and policies choose."""
    c = Config({name: dict(values) for name, values in configured.items()})
    spawner_after(SNIPPET, c, "userPodLabels", wanted)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "configured", "says"),
    [
        ({"component": "singleuser-server", "app": "jupyterhub"}, {}, ""),
        ({"component": "singleuser-server"}, {"KubeSpawner": {"component_label": "course"}}, "their component is course,"),
        ({"component": "course"}, {"KubeSpawner": {"component_label": "course"}}, ""),
        ({"component": "course"}, {"KubeSpawner": {"component_label": "x"}, "BinderSpawner": {"component_label": "course"}}, ""),
        # KubeSpawner's own labels win over others, as in it.
        ({"component": "x"}, {"KubeSpawner": {"extra_labels": {"component": "x"}}}, "their component is singleuser-server,"),
        ({"release": "b"}, {"KubeSpawner": {"extra_labels": {"release": "b"}, "common_labels": {}}}, ""),
        ({"app": "jupyterhub"}, {"KubeSpawner": {"common_labels": {"release": "b"}}}, "their app is None,"),
        (None, {}, ""),
        (["?"], {}, "labels of user pods not compared"),
    ],
)
def test_hub_says_when_policies_do_not_select_its_pods(capsys, wanted, configured, says):
    said = compared(capsys, wanted, **configured)
    assert (says in said) if says else not said
