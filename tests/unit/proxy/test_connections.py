"""The server of the egress proxy: what a pod with too many connections costs others, and what its clients are told.

The limits themselves: `test_limits`. By packets, `tests/cluster/test_scanner_is_cut_off.py` counts a scan.
"""

import asyncio
import itertools
import logging
import socket
import tracemalloc
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from binder_egress import logs
from binder_egress.model.grants import UNVERIFIED
from binder_egress.model.records import AddressChange, AddressVersion, PodAddresses
from binder_egress.proxy import answers, connections, limits, new_hosts, requests, source_ports, upstream
from binder_egress.proxy.decide import Policy, TierHosts
from binder_egress.proxy.flow import Asked, Flow
from binder_egress.proxy.hosts import HostList
from binder_egress.proxy.limits import Limits
from binder_egress.proxy.metrics import Metrics
from binder_egress.proxy.refusals import UNKNOWN, End, Reason, Refusal
from binder_egress.proxy.resolve import Resolver
from tests.support.egress_proxy.loopback import publish, served
from tests.support.metrics import PROXY_NAMES


async def ask(address, host):
    """The first line of the answer to a CONNECT, without its version. The client leaves then."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return line.decode().strip().removeprefix("HTTP/1.1 ")


async def test_connections_beyond_a_limit_are_not_all_answered():
    """Each answer waits a moment for its reader. Only a limited number of clients that do not read wait at a time, and the log has
    as many lines."""
    most = int(connections.LIMIT_ANSWERS_PER_SECOND * limits.BURST_SECONDS)

    now = [100.0]
    proxy = connections.Proxy(Policy({}), Limits(connections=1, new_per_second=10_000), Resolver(), Metrics(), clock=lambda: now[0])
    async with served(proxy, drain_seconds=5) as address, AsyncExitStack() as stack:
        pod = [stack.enter_context(socket.create_connection(address)) for _ in range(most + 50)]
        loop = asyncio.get_running_loop()
        for connection in pod:
            connection.setblocking(False)
        # The first one is within the limit; the last 49 get nothing.
        said = [await asyncio.wait_for(loop.sock_recv(connection, 12), 60) for connection in pod[1:]]
        assert said == [b"HTTP/1.1 429"] * most + [b""] * 49
        assert proxy.open <= most + 1


async def test_flood_of_connections_leaves_others_their_turns():
    number = 100
    proxy = connections.Proxy(Policy({}), Limits(connections=number, new_per_second=number), Resolver(), Metrics())
    accepted = [0]
    async with served(proxy) as address, AsyncExitStack() as stack:
        for _ in range(number):
            stack.enter_context(socket.create_connection(address))
        while accepted[-1] < number:
            await asyncio.sleep(0)
            accepted.append(proxy.open)
    assert max(after - before for before, after in itertools.pairwise(accepted)) <= connections.ACCEPTED_A_TURN


@pytest.mark.parametrize("known", [True, False], ids=["whose address it was", "that was withdrawn before it came"])
async def test_request_of_a_pod_is_not_that_of_the_next_with_its_address(known):
    """The first pod has sent its whole request and is gone before the second has the address."""

    policy = Policy({"any": TierHosts(HostList(["*"]), frozenset({80}))})
    proxy = connections.Proxy(policy, Limits(), Resolver(), Metrics())
    first, second = (PodAddresses(uid, user, "", ("127.0.0.1",), "any") for uid, user in (("uid-1", "alice"), ("uid-2", "bob")))
    proxy.identities.load(AddressVersion(), {})
    proxy.identities.apply(AddressChange(AddressVersion()))
    pod, client = socket.socketpair()
    client.setblocking(False)
    pod.sendall(b"GET http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\n\r\n")
    pod.close()
    asking = asyncio.create_task(proxy._ask(Flow("127.0.0.1", client), first if known else None))
    await asyncio.sleep(0.05)
    proxy.identities.apply(AddressChange(AddressVersion(1), "bob/", (second,)))
    with client, pytest.raises(requests.RequestRefused) as refused:
        asked = await asking
        assert not asked.pod
        proxy._allow(asked)
    assert refused.value.refusal == UNKNOWN and UNKNOWN.status == 503


def head(method, header, number):
    return f"{method} HTTP/1.1\r\nHost: a.example\r\n".encode() + f"{header}\r\n".encode() * number + b"\r\n"


TUNNEL, PLAIN = "CONNECT a.example:443", "POST http://a.example/"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(head(TUNNEL, "", 0) + b"x" * 100_000, b"", id="early bytes"),
        pytest.param(head(PLAIN, "Content-Length: 100000", 1) + b"x" * 100_000, b"", id="body"),
        pytest.param(head(TUNNEL, "ab:", 3_000), b"HTTP/1.1 431", id="many headers"),
        pytest.param(head(PLAIN, "ab:", 3_000), b"HTTP/1.1 431", id="many headers of a plain request"),
        pytest.param(head("GET /", "ab:", 3_000), b"HTTP/1.1 431", id="many headers for the proxy's own page"),
        pytest.param(head(TUNNEL, "a" * 160 + ":", 99), b"", id="long names of headers"),
        pytest.param(head(PLAIN, "a" * 160 + ":", 99), b"", id="long names of headers of a plain request"),
        pytest.param(head(TUNNEL, "a:" + "a" * 40_000, 1), b"HTTP/1.1 431", id="long head"),
        pytest.param(head(TUNNEL, "a:" + "a" * 16_400, 1)[:-1], b"HTTP/1.1 431", id="long head without an end"),
    ],
)
async def test_connection_that_waits_keeps_little(sent, answer, monkeypatch):
    """What a client has sent stays in the proxy's memory while a host is looked up, or until the client has read a refusal."""
    monkeypatch.setattr(answers, "LINGER_SECONDS", 60.0)
    asked, number = [], 15

    class Unanswered(Resolver):
        async def addresses(self, name, server="", verified=True):
            asked.append(name)
            await asyncio.Event().wait()

    policy = Policy({"small": TierHosts(HostList(["a.example"]), frozenset({80, 443}))})
    proxy = connections.Proxy(policy, Limits(new_per_second=100), Unanswered(), Metrics())
    publish(proxy, "small")
    loop = asyncio.get_running_loop()
    async with served(proxy, drain_seconds=0) as address, AsyncExitStack() as stack:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(address))
            client.setblocking(False)
            client.send(sent)
            if answer:
                assert await asyncio.wait_for(loop.sock_recv(client, len(answer)), 60) == answer
        while not answer and len(asked) < number:
            await asyncio.sleep(0.01)
        kept = (tracemalloc.get_traced_memory()[0] - before) / number
        tracemalloc.stop()
    assert kept <= 4 * requests.MAX_HEAD_BYTES


async def test_listed_host_counts_for_its_group_and_a_flood_for_its_server(caplog):
    """Metrics and logs: connections to listed hosts without an address or an answer of DNS, and one beyond the limit."""
    caplog.set_level(logging.INFO)
    repository = "https://github.com/org/" + "course" * 100
    course = {"github.com/org/*": HostList(["api.example.org"])}
    policy = Policy({"small": TierHosts(HostList(["julia"]))}, repositories=course)
    metrics, found = Metrics(), {"pkg.julialang.org": []}
    proxy = connections.Proxy(policy, Limits(new_per_second=1), Resolver(found.get), metrics, clock=lambda: 100.0)
    publish(proxy, "small", repository=repository)
    async with served(proxy) as address:
        for host, answer in (("pkg.julialang.org", "502"), ("api.example.org", "504"), ("pkg.julialang.org", "429")):
            assert (await ask(address, host)).startswith(answer)
    rules = {"unresolved": "julia", "unanswered": "other", "limit": ""}
    for rule, group in rules.items():
        labels = f'decision="refused",group="{group}",rule="{rule}",tier="small"'
        assert f"binder_egress_proxy_connections_total{{{labels}}} 1.0" in metrics.text().decode()
    lines = [record.fields for record in caplog.records]
    assert [(line["rule"], line["user"]) for line in lines] == [(rule, "alice") for rule in rules]
    assert {line["repository"] for line in lines} == {repository[:200]}  # a stranger's text, in each line


def test_refusals_of_a_server_are_logged_up_to_a_limit_for_each_rule_and_what_went_out_always(caplog):
    metrics = Metrics()
    proxy = connections.Proxy(Policy({}), Limits(), Resolver(), metrics, log_connections=True)
    pods = [PodAddresses(f"uid-{user}", user, "", ("127.0.0.1",), "small", False, "") for user in ("alice", "bob")]
    most = logs.MAX_LINES

    def note(pod, reason=None, cut=""):
        asked = Asked(Flow("127.0.0.1", None, cut=cut), requests.Tunnel("a.example.org", 443), pod)
        proxy._ended.note(asked.flow, asked, pod, Refusal(reason, 403, "") if reason else End.ENDED)

    with caplog.at_level(logging.INFO):
        for pod, reason, cut in [(pods[0], Reason.NOT_LISTED, ""), (pods[0], None, ""), (pods[0], None, Reason.NOT_TAKEN)]:
            for _ in range(2 * most):
                note(pod, reason, cut)
        note(pods[0], Reason.LIMIT)
        note(pods[1], Reason.NOT_LISTED)
    told = Counter((record.getMessage(), record.fields["user"], record.fields["rule"]) for record in caplog.records)
    assert told == {
        ("proxy", "alice", "not-listed"): most,
        ("proxy: further lines of this kind are not logged for 600 s", "alice", "not-listed"): 1,
        ("proxy", "alice", "ended"): 2 * most,
        ("proxy", "alice", "not-taken"): 2 * most,
        ("proxy", "alice", "limit"): 1,
        ("proxy", "bob", "not-listed"): 1,
    }
    refused = 'decision="refused",group="",rule="not-listed",tier="small"'
    assert f"binder_egress_proxy_connections_total{{{refused}}} {2 * most + 1}.0" in metrics.text().decode()


def test_metrics_have_stable_names_and_types_and_help():
    families = text_string_to_metric_families(Metrics().text().decode())
    found = {family.name: family for family in families if not family.name.endswith("_created")}
    assert {name: family.type for name, family in found.items()} == PROXY_NAMES
    assert [name for name, family in found.items() if not family.documentation.endswith(".")] == []


# -- connections to hosts


FULL, OTHER = "203.0.113.1", "203.0.113.2"
PORTS = 80
"""The source ports of the machine: unverified servers may take 20 for one address, and a minute later 20 more."""

HOSTS = {"full.example": [FULL], "other.example": [OTHER], "both.example": [FULL, OTHER]}
POLICY = Policy({tier: TierHosts(HostList(["*"])) for tier in (UNVERIFIED, "verified")})


@pytest.fixture
def internet(monkeypatch):
    """The addresses that the proxy tries. Those in 198.51.100.0/24 refuse, all others are connected."""
    tried = []

    async def connected(address, port, seconds):
        tried.append(address)
        if address.startswith("198.51.100."):
            raise ConnectionRefusedError
        ours, _ = socket.socketpair()
        ours.setblocking(False)
        return ours

    monkeypatch.setattr(upstream, "_connected", connected)
    return tried


async def test_scanner_reaches_few_hosts_and_those_that_it_knows_go_on(internet, clock):
    """The name with another address in each answer is one host. A host that does not answer counts twice."""
    turns = itertools.count(1)

    def resolve(name):
        if name == "turning.example":
            return [f"203.0.113.{next(turns)}"]
        kind, number = name[0], name[1:].partition(".")[0]
        return [f"{'198.51.100' if kind == 'r' else '192.0.2'}.{number}"]

    limits, metrics = Limits(1000, 1000, new_hosts_per_minute=6, unverified_new_hosts_per_minute=4), Metrics()
    proxy = connections.Proxy(POLICY, limits, Resolver(resolve, clock), metrics, clock=clock)
    refusals = ["502 The host does not answer"] * 2
    refusals += ["429 This server has tried too many hosts in the last minute, try again later"]
    async with served(proxy) as address:
        publish(proxy, UNVERIFIED)
        assert [await ask(address, f"r{number}.example") for number in range(3)] == refusals
        assert internet == ["198.51.100.0", "198.51.100.1"]
        clock.now += new_hosts.WINDOW_SECONDS
        internet.clear()
        publish(proxy, "verified")
        for _ in range(3):
            clock.now += 6  # DNS is asked again
            assert (await ask(address, "turning.example")).startswith("200 ")
        assert len(set(internet)) == 1 and next(turns) > 3
        answers = [await ask(address, f"a{number}.example") for number in range(5)]
        assert {answer[:3] for answer in answers} == {"200"}
        assert (await ask(address, "a0.example")).startswith("200 ")
    for row in ('outcome="immediate",who="verified"} 6.0', 'outcome="refused",who="unverified"} 1.0'):
        assert f"binder_egress_proxy_new_hosts_total{{{row}" in metrics.text().decode()


@pytest.mark.parametrize("tier", [UNVERIFIED, "verified"])
async def test_name_with_dead_addresses_does_not_make_its_visitor_a_scanner(internet, clock, tier):
    """Sixteen others in each answer of DNS, asked for again and again for a minute."""
    turns = itertools.count()

    def resolve(name):
        return [f"198.51.100.{next(turns) % 250}" for _ in range(16)] if name == "dead.example" else [OTHER]

    proxy = connections.Proxy(POLICY, Limits(1000, 1000), Resolver(resolve, clock), Metrics(), clock=clock)
    async with served(proxy) as address:
        for _ in range(9):
            publish(proxy, tier)
            assert await ask(address, "dead.example") == "502 The host does not answer"
            clock.now += 6  # DNS is asked again
        assert len(set(internet)) == new_hosts.NEW_ADDRESSES
        assert (await ask(address, "other.example")).startswith("200 ") and proxy.new_hosts.beyond == set()


async def test_unverified_servers_that_take_a_hosts_ports_are_refused_and_others_served(internet, clock, monkeypatch):
    monkeypatch.setattr(source_ports, "FEW", 0)  # They are for servers with few connections.
    limits = Limits(1000, 1000, source_ports=PORTS, new_hosts_per_minute=0, unverified_new_hosts_per_minute=0)
    metrics = Metrics()
    proxy = connections.Proxy(POLICY, limits, Resolver(HOSTS.__getitem__, clock), metrics, clock=clock)
    full = "503 Too many connections to this host in the last minute, try again"
    async with served(proxy) as address:
        publish(proxy, UNVERIFIED)
        assert {(await ask(address, "full.example"))[:3] for _ in range(PORTS // 4)} == {"200"}
        assert await ask(address, "full.example") == full
        for host in ("other.example", "both.example"):
            assert (await ask(address, host)).startswith("200 ")
        publish(proxy, "verified")
        assert (await ask(address, "full.example")).startswith("200 ")
        clock.now += source_ports.KEPT_SECONDS
        publish(proxy, UNVERIFIED)
        assert (await ask(address, "full.example")).startswith("200 ")
    refused = 'decision="refused",group="*",rule="host-limit",tier="unverified"'
    assert f"binder_egress_proxy_connections_total{{{refused}}} 1.0" in metrics.text().decode()
