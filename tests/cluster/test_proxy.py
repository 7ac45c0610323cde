"""The egress proxy in the cluster: a pod without a pass reaches a listed host through it, and nothing else."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from binder_egress.proxy.resolve import TRIES, TRY_SECONDS
from tests.support.cluster.canary import canary
from tests.support.cluster.commands import cells, doctor, egress, helm_test
from tests.support.cluster.egress_proxy import (
    LISTED,
    OTHER,
    PRIVATE,
    VALUES,
    ask,
    ask_until,
    await_variables,
    installed,
    launch,
    tunnel,
    who,
)
from tests.support.cluster.packets import assert_reaches
from tests.support.cluster.stage import QUICK, Failed, Stage, on_node
from tests.support.cluster.start_guard_pods import attempts, guard_of, start_pod, with_variables
from tests.support.cluster.timeouts import CANARY_SECONDS, POD_SECONDS, RECONCILER_SECONDS, TIER_SECONDS
from tests.support.waiting import eventually


@pytest.fixture(scope="module", autouse=True)
def proxy(stage: Stage) -> Iterator[None]:
    with installed(stage):
        yield


def test_pod_without_a_pass_reaches_a_listed_host_and_nothing_else(stage):
    user = launch(stage)
    for url in (f"http://{OTHER}/", f"https://{OTHER}/"):
        seen = ask_until(stage, user, url, f"No internet access: open https://hub.example.org/egress/servers/{user}/")
        assert url.startswith("https") or "error=http_request_denied" in seen, seen
    ask_until(stage, user, f"http://{PRIVATE}/", "private or special address")
    assert who(stage, user)["uid"] == stage.pod(user)["metadata"]["uid"]
    asked_directly = set(stage.inside(user, "printenv", "NO_PROXY").strip().split(","))
    hub = urlsplit(stage.inside(user, "printenv", "JUPYTERHUB_API_URL").strip()).hostname
    assert asked_directly == {"localhost", "127.0.0.1", "::1", stage.pod(user)["status"]["podIP"], hub}
    # Nothing is open except the proxy, and not the port of its pods' probes.
    probes = {pod["metadata"]["name"]: f"tcp://{pod['status']['podIP']}:8082" for pod in stage.pods_of("proxy")}
    assert len(probes) == 2
    assert_reaches(stage, user, egress=False, more=probes)


def test_unlock_opens_other_hosts_and_a_revocation_cuts_them(stage):
    user = launch(stage)
    ask_until(stage, user, f"http://{OTHER}/", "No internet access")
    stage.unlock_well(user)
    # One of the two replicas may hear of it after the other.
    ask_until(stage, user, f"http://{OTHER}/", "The host name has no address")
    ask_until(stage, user, f"http://{PRIVATE}/", "private or special address")
    with tunnel(stage, user) as held:
        began = time.time()
        egress(stage, "revoke", user, "--why", "a test")
        word, when = held.stdout.readline().split()
    # Most of that time is the command itself.
    assert word == "ended" and float(when) - began < TIER_SECONDS
    ask_until(stage, user, f"http://{LISTED}/", "blocked by the operators")


@pytest.mark.any_network
def test_groups_of_the_image_have_the_hosts_of_its_tools(stage):
    found = egress(stage, "hosts", "list")
    assert len(found["python"]) == 2 and len(found["node"]) == 1


def test_first_request_of_a_pod_is_served(stage):
    """The start guard has already asked, so neither the pod's addresses nor its policies are late."""
    launched = [stage.launch() for _ in range(3)]
    assert {ask(stage, each.user, f"http://{LISTED}/") for each in launched} == {"200"}
    for each in launched:
        (status,) = stage.pod(each.user)["status"]["initContainerStatuses"]
        assert json.loads(status["state"]["terminated"]["message"])["outcome"] in ("closed", "blocked")


def give_next(address: str) -> None:
    """Make the node's network plugin give this address to the next pod, instead of going through all others first."""
    state = Path(os.environ["CLUSTER_TARGETS"]).parent / "lib/cni/networks/pods"
    (state / "last_reserved_ip.0").write_text(str(ip_address(address) - 1))


SEEN = (
    "import json, sys; from binder_egress.pods.start_guard import ask_proxy; print(json.dumps(ask_proxy((sys.argv[1], 3128), 5)))"
)
"""Runs in a start guard's container: prints the proxy's answer about the pod."""


def test_address_that_is_used_again_is_that_of_the_new_pod(stage, local_cluster):
    """Until the proxy hears of the new pod, it takes it for the previous one. The start guard waits meanwhile, and none of the
    pod's programs runs."""
    user = stage.launch().user
    stage.unlock_well(user)
    ask_until(stage, user, f"http://{OTHER}/", "The host name has no address")
    before = stage.pod(user)
    address = before["status"]["podIP"]
    stage.scale("reconciler", 0)
    try:
        stage.kubectl("delete", "pod", before["metadata"]["name"], "--now")
        give_next(address)
        guard = with_variables(guard_of(before), BINDER_EGRESS_START_GUARD_TIMEOUT=str(POD_SECONDS))
        start_pod(stage, "early-heir", guard, seconds=1, user="heir")

        def heir() -> dict:
            return stage.get("pod", "early-heir")

        eventually(lambda: heir()["status"].get("podIP"), POD_SECONDS)
        assert heir()["status"]["podIP"] == address
        proxy = stage.cluster_ip("binder-egress-proxy")
        inside = ("exec", "early-heir", "-c", guard["name"], "--", "python3", "-c", SEEN, proxy)
        seen: dict[str, str] = {}

        def asked() -> bool:
            with suppress(Failed):
                seen.update(json.loads(stage.kubectl(*inside)))
            return bool(seen)

        eventually(asked, POD_SECONDS)
        assert (seen["address"], seen.get("uid")) in ((address, before["metadata"]["uid"]), (address, None))
        assert "running" in heir()["status"]["initContainerStatuses"][0]["state"]
    finally:
        stage.scale("reconciler", 1)
    (pod,) = attempts(stage).values()
    assert pod.said["outcome"] in ("closed", "blocked")


HIDE = ("-p", "tcp", "--dport", "3128", "-j", "MASQUERADE")
"""The rule that kube-proxy's setting `masqueradeAll` makes for all Services, here only for the proxy's."""


@pytest.fixture
def hide(stage: Stage, local_cluster: str) -> Iterator[Callable[[str], None]]:
    """Hide the addresses of pods from the proxy on the users' node (`-I`), or stop that (`-D`)."""
    now = "-D"

    def change(how: str) -> None:
        nonlocal now
        if how != now:
            subprocess.run(["iptables", "-t", "nat", how, "POSTROUTING", *HIDE], check=True)
        now = how

    yield change
    change("-D")


@pytest.fixture
def beside(stage: Stage) -> Iterator[None]:
    """Meanwhile the proxy is on the users' node, whose own address no policy there refuses."""
    place(stage, stage.pod(stage.launch().user)["spec"]["nodeName"])
    yield
    place(stage, None)


def place(stage: Stage, node: str | None) -> None:
    """Move the proxy's pods to a node, or to where they were."""
    chosen = {"kubernetes.io/hostname": node} if node else None
    patch = json.dumps({"spec": {"template": {"spec": {"nodeSelector": chosen}}}})
    stage.kubectl("patch", "deployment", "binder-egress-proxy", "--type=merge", f"--patch={patch}")
    stage.rollout("deployment/binder-egress-proxy")
    stage.await_settled()


@pytest.mark.any_network
def test_network_that_hides_addresses_is_noticed(stage, beside, hide):
    """The proxy then serves nobody, and canary, doctor, `helm test` and start guards say so."""
    hidden = "binder_egress_proxy_addresses_hidden"
    user = launch(stage)
    seen = [("ok", "saw a canary's own address when it last answered")]
    eventually(lambda: doctor(stage).get("egress proxy") == seen, CANARY_SECONDS)
    assert cells(helm_test(stage)[1])["unverified", "egress proxy"] == "shown ok"
    hide("-I")
    ask_until(stage, user, f"http://{LISTED}/", "503")
    start_pod(stage, "early-hidden", with_variables(guard_of(stage.pod(user)), BINDER_EGRESS_START_GUARD_TIMEOUT="15"), seconds=1)
    assert attempts(stage)["early-hidden"].said["outcome"] == "unknown_to_proxy"
    passed, table = helm_test(stage)
    assert not passed and cells(table)["verified", "egress proxy"].startswith("hidden FAILED on "), table
    eventually(lambda: canary(stage).proxy == "hidden", CANARY_SECONDS)
    assert doctor(stage)["egress proxy"][0][0] == "problem"
    stage.restart("reconciler")  # It looks when it starts, and then once a minute.
    eventually(lambda: stage.metrics().get(hidden) == 1, RECONCILER_SECONDS)
    hide("-D")
    ask_until(stage, user, f"http://{LISTED}/", "200")


@pytest.mark.long
def test_node_that_hides_addresses_from_a_proxy_elsewhere_is_named(stage, hide):
    """There the proxy's policy admits pods alone: the network plugin rejects what comes from the node's address."""
    user = launch(stage)
    node = stage.pod(user)["spec"]["nodeName"]
    hide("-I")
    eventually(lambda: "Connection refused" in ask(stage, user, f"http://{LISTED}/"), TIER_SECONDS)
    start_pod(stage, "early-refused", with_variables(guard_of(stage.pod(user)), BINDER_EGRESS_START_GUARD_TIMEOUT="15"), seconds=1)
    assert attempts(stage)["early-refused"].said["outcome"] == "unknown_to_proxy"
    passed, table = helm_test(stage)
    assert not passed and cells(table)["verified", "egress proxy"].startswith(f"silent FAILED on {node}"), table

    def is_named() -> bool:
        said = [text for state, text in doctor(stage).get("nodes", []) if state == "problem" and text.startswith(f"{node} (")]
        return any("pods do not reach the egress proxy" in text for text in said)

    eventually(is_named, CANARY_SECONDS, lambda: doctor(stage).get("nodes"))
    answers = f'binder_egress_node_proxy_serves{{node="{node}"}}'
    eventually(lambda: stage.metrics().get(answers) == 0, RECONCILER_SECONDS)
    # On all nodes: the canary beside a pod of the proxy says that addresses are hidden, and the one elsewhere nothing new.
    assert (doctor(stage)["egress proxy"][0][0], canary(stage).proxy) == ("ok", "shown")
    rule = f"of 1; on_node iptables -t nat {{}} POSTROUTING {' '.join(HIDE)}"
    on_node(rule.format("-I"))
    try:
        eventually(lambda: stage.metrics().get("binder_egress_proxy_addresses_hidden") == 1, CANARY_SECONDS)
        assert (doctor(stage)["egress proxy"][0][0], canary(stage).proxy) == ("problem", "shown")
    finally:
        on_node(rule.format("-D"))
    hide("-D")
    ask_until(stage, user, f"http://{LISTED}/", "200")
    eventually(lambda: not is_named() and stage.metrics().get(answers) == 1, CANARY_SECONDS)


@pytest.mark.any_network
def test_pods_of_the_proxy_have_many_source_ports(stage):
    """The kernel's range comes from the values, and the proxy calculates with it."""
    pods = [pod["metadata"]["name"] for pod in stage.pods_of("proxy")]
    code = "print(open('/proc/sys/net/ipv4/ip_local_port_range').read())"
    for pod in pods:
        assert stage.kubectl("exec", pod, "--", "python3", "-c", code).split() == ["10000", "65535"]
        assert '"source_ports": 55536' in stage.kubectl("logs", pod)
    assert len(pods) == 2


@pytest.mark.any_network
def test_pods_of_the_proxy_ask_dns_again_after_a_second(stage):
    resolv_conf = stage.kubectl("exec", "deployment/binder-egress-proxy", "--", "cat", "/etc/resolv.conf")
    options = next(line.split()[1:] for line in resolv_conf.splitlines() if line.startswith("options"))
    assert {f"timeout:{TRY_SECONDS}", f"attempts:{TRIES}"} <= set(options)


def test_replica_that_goes_costs_new_connections_nothing(stage):
    user = launch(stage)
    stage.kubectl("rollout", "restart", "deployment/binder-egress-proxy")
    end = time.monotonic() + POD_SECONDS
    seen = set()
    while time.monotonic() < end:
        answer = ask(stage, user, f"http://{LISTED}/")
        if answer.startswith("URLError"):
            # A busy node may take more than two seconds to learn that a replica ends (D-090). Programs try again.
            answer = ask(stage, user, f"http://{LISTED}/")
        seen.add(answer)
        try:
            stage.kubectl("rollout", "status", "deployment/binder-egress-proxy", "--timeout=1s")
            break
        except Failed:
            continue
    assert seen == {"200"}


@pytest.mark.long
@pytest.mark.any_network
def test_upgrade_leaves_what_the_reconciler_wrote(stage):
    """A stray key stays, and a removed key is back after a restart of the reconciler."""
    change = {"data": {"address": None, "tests": "mine"}}
    stage.kubectl("patch", "configmap", "binder-egress-proxy-variables", "--type=merge", f"--patch={json.dumps(change)}")
    stage.install_gate(*QUICK, *VALUES, "--set=commonLabels.team=tests")
    await_variables(stage, tests="mine")
    assert stage.get("configmap", "binder-egress-proxy-variables")["metadata"]["labels"]["team"] == "tests"
