"""The probe battery: everything that a user may want to reach, from inside user pods in each state.

A table in docs/battery-tables.md, which operators read, says what is open and what is shut on which network plugin. The test fails
if a cell is wrong in either direction.

After it come attacks without packets, except what other tests try: passes that are forged, used by many at once, or
repeated by BinderHub under a new user name (test_launches.py), solving again after a revocation (test_operators.py), a label set by
hand (test_unlock.py, tests/chart/test_api_server.py).
"""

import ipaddress
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from binder_egress.model.ping import CLOSED, SYSCTL
from tests.support.cluster.canary import await_canary
from tests.support.cluster.commands import doctor, egress
from tests.support.cluster.hub import start_by_hub, stop_by_hub
from tests.support.cluster.made_up_sources import ELSEWHERE, ELSEWHERE4, MadeUp, hearing, send, send_from_here
from tests.support.cluster.networks import Network, cells
from tests.support.cluster.node_guard import TABLE, is_whole, node_guard
from tests.support.cluster.stage import LABEL, QUICK, TOP, USER_PODS, Stage, lines
from tests.support.cluster.timeouts import (
    ANSWER_SECONDS,
    POD_SECONDS,
    RECONCILED_SECONDS,
    RECONCILER_SECONDS,
    TIER_SECONDS,
)
from tests.support.waiting import eventually

STATES = ("unverified", "verified", "expired", "revoked", "blocked")

PATIENT = ("--timeout=3s", "--attempts=2")
"""For `probe battery`: a slow answer of a busy machine must not look like a policy."""

FRONT_DOOR = "203.0.113.77"
"""The public address of a load balancer. Nodes route it to its pods without using the internet, as in k3s."""

RELAY = """
import socket, socketserver, sys, threading
class Relay(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection((sys.argv[3], int(sys.argv[4]))) as there:
            def back():
                while data := there.recv(65536):
                    self.request.sendall(data)
            threading.Thread(target=back, daemon=True).start()
            while data := self.request.recv(65536):
                there.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer.daemon_threads = True
socketserver.ThreadingTCPServer((sys.argv[1], int(sys.argv[2])), Relay).serve_forever()
"""
"""Runs on the internet: forwards a port to the node's. Arguments: address and port here, address and port there."""


def is_open(cell: str, network: Network) -> bool:
    """What a cell of the page means in this cluster: `⁴` is open with IPv4 alone."""
    return network.node_link_local_open if cell == "open⁴" else cell != "–"


def table(network: Network) -> dict[str, dict[str, str]]:
    """The page's table: state → target → cell."""
    found = cells(network.name)
    return {state: {name: cell[state == "verified"] for name, cell in found.items()} for state in STATES}


def alive(names: Iterable[str], network: Network) -> set[str]:
    """The targets that answer somebody. Where pods do not reach each other by link-local, nobody does."""
    return {name for name in names if network.link_local_open or "neighbour, IPv6 link-local" not in name}


def rows(family: str) -> set[str]:
    """The targets in a cluster of this kind. A cluster without IPv6 has only link-local IPv6 addresses, which nobody configured."""
    return {name for name in cells("kube-router") if family == "dual" or "IPv6" not in name or "link-local" in name}


@dataclass
class Seen:
    """The results of one run for all tests.

    Attributes:
        rows: the names of the targets.
        reached: state → target → whether it answered, or heard a packet with a made-up source.
        answers: the targets that answered a pod that no policy selects, or the node, or heard the node.
        stranger: the targets that the pod without a policy reached.
        through_proxy: the status of a user's server, asked through the hub's proxy.
        refused: API and token that was found in a user pod → status.
        guarded: the same as `reached`, with the node guard.
        put_back: whether the guard's rules came back after somebody had removed them, or the whole table.
        unguarded: the targets that the unverified pod reached by IPv6 link-local after the node guard was gone.
    """

    rows: set[str]
    reached: dict[str, dict[str, bool]]
    answers: set[str]
    stranger: dict[str, bool]
    through_proxy: int
    refused: dict[str, int]
    guarded: dict[str, dict[str, bool]]
    put_back: dict[str, bool]
    unguarded: dict[str, bool]


def address_of(stage: Stage, user: str, family: int) -> str:
    """The address of a user's pod, in brackets if it has colons."""
    (found,) = [ip["ip"] for ip in stage.pod(user)["status"]["podIPs"] if (":" in ip["ip"]) == (family == 6)]
    return f"[{found}]" if family == 6 else found


def link_local_of(listing: str, interface: str) -> str:
    """The link-local address of an interface, from /proc/net/if_inet6, as a pod of the same node writes it in a URL."""
    (found,) = re.findall(rf"^(fe80\w+) .* {interface}$", listing, re.MULTILINE)
    return f"[{':'.join(re.findall('....', found))}%25eth0]"


def gateway_of(stage: Stage, user: str) -> str:
    """The same of the node's end of the link to a user's pod."""
    route = json.loads(stage.run("ip", "-json", "route", "get", address_of(stage, user, 4)))
    return link_local_of(Path("/proc/net/if_inet6").read_text(), route[0]["dev"])


def targets(stage: Stage, known: dict, neighbours: dict[str, str]) -> dict[str, str]:
    """The targets: name in the table → target of `probe battery`."""
    dual = known["family"] == "dual"
    four = {who: address_of(stage, user, 4) for who, user in neighbours.items()}
    six = {who: address_of(stage, user, 6) if dual else None for who, user in neighbours.items()}
    local = {who: link_local_of(stage.inside(user, "cat", "/proc/net/if_inet6"), "eth0") for who, user in neighbours.items()}
    gateway = gateway_of(stage, neighbours["verified"])
    port = stage.get("service", "front-door")["spec"]["ports"][0]["nodePort"]
    services = ("hub", "proxy-public", "proxy-api", "binder", "binder-egress", "binder-egress-redis")
    address = {name: stage.cluster_ip(name) for name in services}
    (proxy,) = stage.get("pods", "-l", "component=proxy")["items"]
    node, node6, dns = known["node_ip"], known["node6_ip"], known["cluster_dns"]
    server = f"/user/{neighbours['verified']}/api/status"
    found = {
        "public address, TCP": known["public_tcp"],
        "public address, UDP": known["public_udp"],
        "public address, HTTP": known["public_http"],
        "public address, ping": f"icmp://{known['public_ip']}",
        "public IPv6 address, TCP": known["public6_tcp"],
        "public IPv6 address, UDP": known["public6_udp"],
        "public IPv6 address, ping": f"icmp://[{known['public6_ip']}]",
        "the cluster's DNS, an outside name": f"dns://{dns[0]}:53/{known['public_name']}",
        "the cluster's DNS over TCP": f"tcp://{dns[0]}:53",
        "the cluster's DNS over IPv6": f"dns://[{dns[-1]}]:53/{known['public_name']}",
        "a DNS server on the internet": f"dns://{known['external_dns']}:53/{known['public_name']}",
        "private address": f"http://{known['private']}",
        "private IPv6 address": f"http://[{known['private6']}]",
        "cloud metadata": f"http://{known['metadata']}",
        "cloud metadata, IPv6": f"http://[{known['metadata6']}]",
        "API server, by its Service": known["api_server"],
        "API server, by its node": known["api_server_node"],
        "kubelet": known["kubelet"],
        "kubelet, IPv6": f"https://[{node6}]:10250",
        "kubelet, IPv6 link-local": f"https://{gateway}:10250",
        "host-network service": f"http://{node}:9100",
        "host-network service, UDP": f"udp://{node}:9100",
        "host-network service, IPv6": f"http://[{node6}]:9100",
        "node, ping": f"icmp://{node}",
        "hub": f"http://{address['hub']}:8081/hub/api",
        "hub's proxy, by its Service": f"http://{address['proxy-public']}:80{server}",
        "hub's proxy, by its pod": f"http://{proxy['status']['podIP']}:8000{server}",
        "hub's proxy, by a node port": f"http://{node}:{port}{server}",
        "hub's proxy, by a node port, IPv6": f"http://[{node6}]:{port}{server}",
        "hub's proxy, by a load balancer's public address": f"http://{FRONT_DOOR}{server}",
        "hub's proxy, over the internet and back": f"http://{known['public_ip']}:8000{server}",
        "API of the hub's proxy": f"http://{address['proxy-api']}:8001/api/routes",
        "BinderHub": f"http://{address['binder']}:80/versions",
        "verifier's public port": f"http://{address['binder-egress']}:80/egress/challenge",
        "verifier's in-cluster port, for forged launches": f"http://{address['binder-egress']}:8081/api/launches",
        "Redis": f"tcp://{address['binder-egress-redis']}:6379",
    }
    for who in neighbours:
        found |= {
            f"{who} neighbour, its server": f"http://{four[who]}:8888{server}",
            f"{who} neighbour, its server, IPv6": f"http://{six[who]}:8888{server}",
            f"{who} neighbour, another TCP port": f"tcp://{four[who]}:9999",
            f"{who} neighbour, UDP": f"udp://{four[who]}:9999",
            f"{who} neighbour, UDP, IPv6": f"udp://{six[who]}:9999",
            f"{who} neighbour, ping": f"icmp://{four[who]}",
            f"{who} neighbour, ping, IPv6": f"icmp://{six[who]}",
            f"{who} neighbour, IPv6 link-local, TCP": f"tcp://{local[who]}:9999",
            f"{who} neighbour, IPv6 link-local, UDP": f"udp://{local[who]}:9999",
            f"{who} neighbour, IPv6 link-local, ping": f"icmp://{local[who]}",
        }
    return {name: target for name, target in found.items() if name in rows(known["family"])}


def made_up(stage: Stage, known: dict, neighbours: dict[str, str]) -> dict[str, MadeUp]:
    """Packets with a source that is not the pod's: name in the table → packet. The hearers are the internet, the node and the
    neighbours."""
    found = {
        "public address, UDP, made-up source": MadeUp(known["public_ip"], ELSEWHERE4, "internet"),
        **{
            f"{who} neighbour, IPv6 link-local multicast, made-up source": MadeUp("ff02::1%eth0", ELSEWHERE, who)
            for who in neighbours
        },
    }
    if known["family"] == "dual":
        # The node guard drops other nodes' addresses.
        unused = str(ipaddress.ip_interface(f"{address_of(stage, neighbours['verified'], 6).strip('[]')}/64").network[0xDEAD])
        found |= {
            "public IPv6 address, UDP, made-up source": MadeUp(known["public6_ip"], ELSEWHERE, "internet"),
            "public IPv6 address, UDP, made-up source of the pods' range": MadeUp(known["public6_ip"], unused, "internet"),
            "host-network service, UDP, IPv6, made-up source of the pods' range": MadeUp(known["node6_ip"], unused, "node"),
            **{
                f"{who} neighbour, UDP, IPv6, made-up source of the pods' range": MadeUp(
                    address_of(stage, user, 6).strip("[]"), unused, who
                )
                for who, user in neighbours.items()
            },
        }
    return found


@contextmanager
def running(*command: str) -> Iterator[None]:
    """A command that runs in the meantime."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def helpers(stage: Stage) -> list[dict]:
    """A pod that no policy selects, a service in a node's network, and a load balancer in front of the hub's proxy."""
    (proxy,) = stage.get("pods", "-l", "component=proxy")["items"]
    labels = {name: proxy["metadata"]["labels"][name] for name in ("app", "component", "release")}

    def pod(name: str, *command: str, **spec: object) -> dict:
        container = {"name": "c", "image": "localhost/user-server:1", "command": list(command), "imagePullPolicy": "IfNotPresent"}
        spec |= {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": [container]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}

    service = {
        "type": "NodePort",
        "selector": labels,
        "ports": [{"port": 80, "targetPort": 8000}],
        "externalIPs": [FRONT_DOOR],
        "ipFamilyPolicy": "PreferDualStack",
    }
    return [
        pod("stranger", "sleep", "infinity"),
        pod("host-service", "probe", "serve", ":9100", hostNetwork=True),
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front-door"}, "spec": service},
    ]


@pytest.fixture(scope="module")
def seen(stage: Stage, network: Network) -> Seen:
    """One pass over a user pod in each state, with a verified and an unverified neighbour."""
    known = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())
    tier = json.dumps({"lease": 60, "cidrs": {"0.0.0.0/0": True, "2000::/3": True}})
    stage.install_gate(*QUICK, f"--set-json=tiers.short={tier}")
    tokens = {who: stage.get_pass() for who in ("verified", "revoked", "blocked", "neighbour")}
    egress(stage, "block", "repository", "example.com/blocked/*", "--why", "the battery")
    made = json.dumps({"apiVersion": "v1", "kind": "List", "items": helpers(stage)})
    with ExitStack() as stack:
        stack.callback(stage.install_gate, *QUICK)
        stack.callback(stage.delete_user_pods)
        stack.callback(stage.kubectl, "delete", "--now", "-f", "-", stdin=made)
        stack.callback(lambda: [egress(stage, "unblock", each["id"]) for each in egress(stage, "blocks")])
        stage.kubectl("apply", "-f", "-", stdin=made)
        # The first state begins with the step that takes a minute.
        launches = {"expired": stage.launch("fake/expired/repo/main")}
        egress(stage, "grant", launches["expired"].user, "--tier", "short", "--why", "the battery")
        with ThreadPoolExecutor(3) as pool:
            others = ("unverified", "verified", "revoked", "blocked", "neighbour", "bystander")
            started = pool.map(lambda who: stage.launch(f"fake/{who}/repo/main", tokens.get(who)), others)
            launches |= dict(zip(others, started, strict=True))
        users = {who: launched.user for who, launched in launches.items()}
        for who in ("verified", "revoked", "neighbour"):
            stage.await_tier(users[who], "verified")
        egress(stage, "revoke", users["revoked"], "--why", "the battery")
        for who in ("unverified", "revoked", "blocked", "bystander"):
            stage.await_tier(users[who], None)
        eventually(lambda: egress(stage, "explain", users["blocked"])["why"] == "the battery", TIER_SECONDS)
        stage.kubectl("wait", "--for=condition=Ready", "pod/stranger", "pod/host-service", f"--timeout={POD_SECONDS}s")
        eventually(
            lambda: stage.tier(users["expired"]) == "short" or egress(stage, "explain", users["expired"])["rule"] == "expired",
            TIER_SECONDS,
        )
        neighbours = {"unverified": users["bystander"], "verified": users["neighbour"]}
        pods = {who: stage.pod_name(user) for who, user in users.items()}
        for user in neighbours.values():
            serve = ("exec", stage.pod_name(user), "--", "probe", "serve", ":9999")
            stack.enter_context(running("kubectl", "--namespace", stage.namespace, *serve))
        node_port = str(stage.get("service", "front-door")["spec"]["ports"][0]["nodePort"])
        internet, first_node = (f"--net=/run/netns/{os.environ['CLUSTER_NAME']}-{place}" for place in ("internet", "node"))
        relay = (sys.executable, "-c", RELAY, known["public_ip"], "8000", known["node_ip"], node_port)
        stack.enter_context(running("nsenter", internet, *relay))
        tried, forged = targets(stage, known, neighbours), made_up(stage, known, neighbours)
        places = {"internet": ("nsenter", internet, sys.executable), "node": (sys.executable,)}
        for who, user in neighbours.items():
            places[who] = ("kubectl", "--namespace", stage.namespace, "exec", stage.pod_name(user), "--", "python3")
        heard = {who: stack.enter_context(hearing(*command)) for who, command in places.items()}
        hosts = {"internet": known["public_ip"], "node": "127.0.0.1"}
        hosts |= {who: address_of(stage, user, 4) for who, user in neighbours.items()}
        # Each target must be alive, or `–` would say nothing.
        with ThreadPoolExecutor(len(STATES)) as pool:

            def all_of(states: Iterable[str]) -> dict[str, dict[str, bool]]:
                """The targets that the pods in some states reach, all tried at the same time."""
                found = pool.map(lambda state: stage.battery_in(pods[state], tried, *PATIENT), states)
                return dict(zip(states, found, strict=True))

            deadline = time.monotonic() + TIER_SECONDS
            while True:
                # A node reaches its own pods, whatever their policies.
                probe = ("probe", "battery", *PATIENT, "-")
                probes = (probe, ("nsenter", first_node, *probe))
                from_nodes = [pool.submit(stage.run, *command, stdin=lines(tried)) for command in probes]
                stranger = stage.battery_in("stranger", tried, *PATIENT)
                nodes = [json.loads(each.result()) for each in from_nodes]
                answers = {name for name in tried if stranger[name] or any(node[name]["reached"] for node in nodes)}
                if answers >= alive(tried, network) or time.monotonic() > deadline:
                    break

            expected = table(network)

            def await_shut(state: str) -> None:
                """Wait until the targets of the tier are shut: the network plugin closes them a moment after the label is gone."""
                opened = {name: tried[name] for name, cell in expected["verified"].items() if name in tried and cell == "open"}
                opened = {name: target for name, target in opened.items() if expected[state][name] == "–"}
                eventually(lambda: not any(stage.battery_in(pods[state], opened).values()), TIER_SECONDS, f"{state} is not shut")

            def await_ears(word: str) -> None:
                """Wait until all hearers have heard the node. By then they have heard what was sent before."""

                def all_hear() -> bool:
                    for host in hosts.values():
                        send_from_here(host, word)
                    return all(word in words for words in heard.values())

                eventually(all_hear, TIER_SECONDS, lambda: f"nothing arrives at {[who for who in heard if word not in heard[who]]}")

            def arrived_from(states: Iterable[str], how: str) -> dict[str, dict[str, bool]]:
                """The packets with a made-up source that arrived, from each pod."""
                await_ears(f"before {how}")
                list(pool.map(lambda state: send(stage, pods[state], forged, f"{how} {state}"), states))
                await_ears(f"after {how}")
                return {
                    state: {name: f"{how} {state} {name}" in heard[each.hearer] for name, each in forged.items()}
                    for state in states
                }

            for state in ("revoked", "blocked"):
                await_shut(state)
            reached = all_of([state for state in STATES if state != "expired"])
            stage.await_tier(users["expired"], None)
            eventually(lambda: egress(stage, "explain", users["expired"])["rule"] == "expired", RECONCILER_SECONDS)
            await_shut("expired")
            reached |= all_of(["expired"])
            for state, arrived in arrived_from(STATES, "unguarded").items():
                reached[state] |= arrived
            token = launches["neighbour"].ready["token"]
            address = f"{stage.url('proxy-public', 80)}/user/{users['neighbour']}/api/status"
            status = requests.get(address, params={"token": token}, timeout=ANSWER_SECONDS).status_code
            refused = try_tokens(stage, known, users["unverified"], token)
            with node_guard():
                guarded = all_of(STATES)
                for state, arrived in arrived_from(STATES, "guarded").items():
                    guarded[state] |= arrived
                put_back = {how: comes_back(how) for how in ("flush", "delete")}
            local = {name: target for name, target in tried.items() if "link-local" in name}
            unguarded = stage.battery_in(pods["unverified"], local, *PATIENT)
        return Seen(rows(known["family"]), reached, answers | {*forged}, stranger, status, refused, guarded, put_back, unguarded)


def comes_back(how: str) -> bool:
    """Remove the node guard's rules by hand, with `nft flush` or `nft delete`. Returns whether they come back."""
    subprocess.run(("nft", how, *TABLE), check=True)
    with suppress(AssertionError):
        eventually(is_whole, POD_SECONDS)
    return is_whole()


def try_tokens(stage: Stage, known: dict, user: str, token: str) -> dict[str, int]:
    """Use every token that is found in a user pod, from a place that reaches everything. Returns API and token → status."""
    pod = stage.pod_name(user)
    text = stage.kubectl("exec", pod, "--", "sh", "-c", "env; cat /var/run/secrets/*/*/* /run/secrets/*/*/* 2>/dev/null; true")
    found = {name: value for name, value in re.findall(r"^(\w*(?:TOKEN|SECRET|KEY|PASSWORD)\w*)=(.+)$", text, re.MULTILINE)}
    assert "JUPYTERHUB_API_TOKEN" in found and "serviceaccount" not in text
    forged = {"metadata": {"labels": {LABEL: "verified"}}}
    launch = {"user": user, "image": "localhost/user-server:1", "token": stage.get_pass()}
    cluster = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())["clusters"][0]["cluster"]
    authority, outcome = cluster["certificate-authority"], {}
    for name, value in (found | {"of the server": token}).items():
        for scheme in ("Bearer", "token"):
            headers = {"Authorization": f"{scheme} {value}"}
            patch = headers | {"Content-Type": "application/merge-patch+json"}
            api = f"{known['api_server_node']}/api/v1/namespaces/{stage.namespace}/pods/{pod}"
            hub, internal = f"{stage.url('hub', 8081)}/hub/api/users/{user}", f"{stage.url('binder-egress', 8081)}/api"
            asked = {
                "the API server, to label the pod": requests.patch(
                    api, json=forged, headers=patch, verify=authority, timeout=ANSWER_SECONDS
                ),
                "the verifier, with a launch": requests.post(
                    f"{internal}/launches", json=launch, headers=headers, timeout=ANSWER_SECONDS
                ),
                "the verifier, for a grant": requests.post(
                    f"{internal}/grants", json={"user": user}, headers=headers, timeout=ANSWER_SECONDS
                ),
                "the hub, for a server": requests.post(
                    f"{hub}/servers/second", json={"image": "x"}, headers=headers, timeout=ANSWER_SECONDS
                ),
                "the hub, for a token": requests.post(f"{hub}/tokens", json={}, headers=headers, timeout=ANSWER_SECONDS),
            }
            outcome |= {f"{who} ({scheme} {name})": answer.status_code for who, answer in asked.items()}
    return outcome


@pytest.mark.parametrize("state", STATES)
def test_pod_reaches_what_the_table_says_and_nothing_else(seen, network, state):
    expected = {name: cell for name, cell in table(network)[state].items() if name in seen.rows}
    assert seen.reached[state] == {name: is_open(cell, network) for name, cell in expected.items()}


def test_what_no_policy_covers_is_as_the_network_is_known(seen, network):
    known = {
        "public IPv6 address, UDP, made-up source": network.made_up_open,
        "verified neighbour, IPv6 link-local, TCP": network.link_local_open,
        "kubelet, IPv6 link-local": network.node_link_local_open,
    }
    for name in known.keys() & seen.rows:
        assert seen.reached["unverified"][name] == known[name], name


def test_targets_all_answer_somebody(seen, network):
    assert len(seen.rows) > 35 and alive(seen.rows, network) - seen.answers == set()


@pytest.mark.any_network
def test_users_servers_are_on_another_node_than_the_gate(stage):
    """Otherwise packets between them, and the tests' requests, do not pass every policy (D-536)."""
    pods = ([stage.pod(stage.launch().user)], stage.pods_of("verifier"))
    users, gate = ({pod["spec"]["nodeName"] for pod in each} for each in pods)
    assert users.isdisjoint(gate) == (len(stage.get("nodes")["items"]) > 1), (users, gate)


def test_user_pod_is_reached_by_the_hubs_proxy_only(seen):
    assert seen.through_proxy == 200
    servers = {name: there for name, there in seen.stranger.items() if re.match("(un)?verified neighbour, (its|another|UDP)", name)}
    assert servers and not any(servers.values()), servers
    # No pod, with or without a tier, reaches the proxy except over the internet.
    for state, reached in seen.reached.items():
        ways = {name for name, there in reached.items() if "hub's proxy" in name and there}
        assert ways <= ({"hub's proxy, over the internet and back"} if state == "verified" else set())


def test_tokens_found_in_a_user_pod_open_nothing(seen):
    assert len(seen.refused) >= 20
    assert {who: status for who, status in seen.refused.items() if status not in (401, 403)} == {}


@pytest.mark.parametrize("state", STATES)
def test_node_guard_closes_what_the_network_plugin_leaves_open(seen, network, state):
    left = {name: cell for name, cell in table(network)[state].items() if name in seen.rows}
    assert seen.guarded[state] == {name: cell not in ("open¹", "open⁴") and is_open(cell, network) for name, cell in left.items()}


def test_node_guard_puts_its_rules_back(seen):
    assert seen.put_back == {"flush": True, "delete": True}


def test_node_guard_leaves_nothing_behind(seen, network):
    assert len(seen.unguarded) == 7
    assert seen.unguarded == {name: is_open(table(network)["unverified"][name], network) for name in seen.unguarded}


def test_sysctl_of_the_page_closes_link_local(stage, network):
    """It closes IPv6 link-local, and made-up addresses, without access to the nodes, except that they must allow the sysctl."""
    known = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())
    (found,) = re.findall(r"^   ```yaml\n(.+?)^   ```", (TOP / "docs/link-local.md").read_text(), re.MULTILINE | re.DOTALL)
    wanted = yaml.safe_load(found)["jupyterhub"]["singleuser"]["extraPodConfig"]["securityContext"]
    without = stage.launch().user
    tried = {"kubelet, IPv6 link-local": f"tcp://{gateway_of(stage, without)}:10250"}
    packets = {"multicast": MadeUp("ff02::1%eth0", ELSEWHERE, "neighbours")}
    if known["family"] == "dual":
        packets["internet"] = MadeUp(known["public6_ip"], ELSEWHERE, "internet")
    assert stage.battery(without, tried) == dict.fromkeys(tried, network.node_link_local_open), "without"
    assert send(stage, stage.pod_name(without), packets, "without") == set()
    stage.install_binderhub(f"--set-json=jupyterhub.singleuser.extraPodConfig.securityContext={json.dumps(wanted)}")
    try:
        user = stage.launch_verified()
        # Existing configuration stays, together with the wiring's addition.
        sysctls = {each["name"]: each["value"] for each in stage.pod(user)["spec"]["securityContext"]["sysctls"]}
        assert sysctls == {wanted["sysctls"][0]["name"]: "1", SYSCTL: CLOSED}
        public = {"public": stage.targets()["public HTTP"]}
        # The tier's policy may be late.
        eventually(lambda: stage.battery(user, public)["public"], TIER_SECONDS)
        assert stage.battery(user, tried) == dict.fromkeys(tried, False)
        pod = stage.pod_name(user)
        assert stage.kubectl("exec", pod, "--", "cat", "/proc/net/if_inet6") == "", "it has an IPv6 address, so neighbours reach it"
        assert send(stage, pod, packets, "with") == {*packets}
    finally:
        stage.install_binderhub()


PING = """
import errno, socket
kinds = [(family, kind, protocol) for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW) for family, protocol in (
    (socket.AF_INET, socket.IPPROTO_ICMP), (socket.AF_INET6, socket.IPPROTO_ICMPV6))]
for kind in kinds:
    try:
        socket.socket(*kind).close()
        print("open")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
"""Runs in a user pod: each way in which a program can send an echo request itself."""

COUNTED = 'binder_egress_user_pods_with_ping_total{way="no-sysctl"}'


def test_user_pod_gets_no_socket_to_ping_with(stage):
    before = stage.metrics()[COUNTED]
    found = stage.inside(stage.launch().user, "python3", "-c", PING).split()
    assert found == ["EACCES", "EACCES", "EPERM", "EPERM"]
    assert doctor(stage)["ping"] == [("ok", "closed in every user pod")]
    assert stage.metrics()[COUNTED] == before


@pytest.mark.long
def test_ping_without_the_sysctl_is_reported(stage, network):
    """The purpose of the sysctl: some network plugins let echo requests through, whatever the policies say."""
    known = json.loads(Path(os.environ["CLUSTER_TARGETS"]).read_text())
    before = stage.metrics()[COUNTED]
    stage.install_gate(*QUICK, "--set=gatecheck.sysctls.net\\.ipv4\\.ping_group_range=false")
    stage.install_binderhub("--set=jupyterhub.custom.binderEgress.closePing=false")
    try:
        stage.delete_user_pods()
        user = stage.launch().user
        assert stage.battery(user, {"ping": f"icmp://{known['public_ip']}"}) == {"ping": network.ping_open}
        eventually(lambda: stage.metrics()[COUNTED] == before + 1, RECONCILER_SECONDS)
        await_canary(stage, "ping", not network.ping_open)
        ((state, text),) = doctor(stage)["ping"]
        assert state == ("warning" if network.ping_open else "ok")
        told = "; 1 without the sysctl" if network.ping_open else ", but the network stops the canary's pings"
        assert text.startswith(f"open in 1 of 1 user pods{told}")
    finally:
        stage.install_binderhub()
        stage.install_gate(*QUICK)


def test_later_server_of_the_same_name_inherits_nothing(stage):
    user = stage.launch_verified()
    image = stage.pod(user)["spec"]["containers"][0]["image"]
    stop_by_hub(stage, user)
    start_by_hub(stage, user, image)
    time.sleep(RECONCILED_SECONDS)
    assert stage.tier(user) is None
    reached = stage.battery(user, stage.targets())
    assert not any(reached.values()), reached


def test_named_server_of_the_same_user_inherits_nothing(stage):
    user = stage.launch_verified()
    image = stage.pod(user)["spec"]["containers"][0]["image"]
    named = start_by_hub(stage, user, image, "second")
    time.sleep(RECONCILED_SECONDS)
    tiers = {
        pod["metadata"]["annotations"].get("hub.jupyter.org/servername", ""): pod["metadata"]["labels"].get(LABEL)
        for pod in stage.get("pods", "-l", USER_PODS)["items"]
    }
    assert tiers == {"": "verified", "second": None}
    reached = stage.battery_in(named, stage.targets())
    assert not any(reached.values()), reached
