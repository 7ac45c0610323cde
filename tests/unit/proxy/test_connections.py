"""The server of the egress proxy: the costs of a pod with too many connections."""

import asyncio
import json
import logging.config
import socket
import tracemalloc
from collections import Counter
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.clock import Clock
from tests.support.metrics import PROXY_NAMES
from tests.support.ports import free_port
from verifier import logs
from verifier.proxy import answers, connections, limits, own_names, requests
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.flow import Allowed, Asked, Flow
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.process import listen
from verifier.proxy.refusals import UNKNOWN, Reason, Refusal
from verifier.proxy.resolve import Resolver
from verifier.records import AddressChange, AddressVersion, PodAddresses


def test_connections_beyond_a_limit_are_not_all_answered():
    """Each answer waits a moment for its reader. Only a limited number of clients that do not read wait at a time, and the log has
    as many lines."""
    most = int(connections.LIMIT_ANSWERS_PER_SECOND * limits.BURST_SECONDS)

    async def main():
        now = [100.0]
        proxy = connections.Proxy(
            Policy({}), Limits(connections=1, new_per_second=10_000), Resolver(), Metrics(), clock=lambda: now[0]
        )
        port = free_port()
        listener = listen(port, "127.0.0.1")
        serving = asyncio.create_task(proxy.serve(listener))
        pod = [socket.create_connection(("127.0.0.1", port)) for _ in range(most + 50)]
        loop = asyncio.get_running_loop()
        for connection in pod:
            connection.setblocking(False)
        # The first one is within the limit; the last 49 get nothing.
        said = [await asyncio.wait_for(loop.sock_recv(connection, 12), 60) for connection in pod[1:]]
        assert said == [b"HTTP/1.1 429"] * most + [b""] * 49
        assert proxy.open <= most + 1
        serving.cancel()
        listener.close()
        for connection in pod:
            connection.close()
        await proxy.drain(5)

    asyncio.run(main())


def test_addresses_of_the_hub_are_those_of_whole_names_and_of_an_announced_one_at_once():
    """The clock stands still. Until an announced name has been looked up, an alias of it is open."""
    asked = []

    async def main():
        policy = Policy({}, frozenset({"hub.example.org", "*.intern.example.org"}))
        resolver = Resolver(lambda name: asked.append(name) or ["192.0.2.1"])
        proxy = connections.Proxy(policy, Limits(), resolver, Metrics(), clock=lambda: 100.0)
        proxy.refuse("jupyter.example.org")
        watching = asyncio.create_task(proxy.watch())
        async with asyncio.timeout(60):
            while len(asked) < 2:
                await asyncio.sleep(0.01)
        proxy.refuse("last.example.org")
        async with asyncio.timeout(60):
            while "last.example.org" not in asked:
                await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(main())
    assert set(asked) <= {"hub.example.org", "jupyter.example.org", "last.example.org"}


@pytest.mark.parametrize("failure", [None, []], ids=["no answer", "no address"])
def test_hub_that_dns_does_not_find_for_a_while_keeps_its_addresses(failure, monkeypatch):
    """Meanwhile another name with its address is refused, too. This address would be refused anyway, but for another reason."""
    monkeypatch.setattr(own_names, "TICK_SECONDS", 0.001)
    clock, lookups = Clock(), Counter()

    def ask(name):
        lookups[name] += 1
        return failure if name == "hub.example" and lookups[name] > 1 else ["127.0.0.1"]

    async def main():
        policy = Policy({"any": TierHosts(HostList(["*"]))}, frozenset({"hub.example"}))
        proxy = connections.Proxy(policy, Limits(), Resolver(ask, clock), Metrics(), clock=clock)
        watching = asyncio.create_task(proxy.watch())
        async with asyncio.timeout(60):
            while lookups["hub.example"] < 3:  # the third begins after the second has ended
                await asyncio.sleep(0.001)
                clock.now += own_names.AGAIN_SECONDS
        watching.cancel()
        pod = PodAddresses("uid-1", "alice", "", ("127.0.0.1",), "any")
        with socket.socket() as client, pytest.raises(requests.RequestRefused) as refused:
            await proxy._connect(Allowed(Flow("127.0.0.1", client), requests.Tunnel("alias.example", 443), pod))
        assert refused.value.refusal.reason == Reason.OWN_NAME

    asyncio.run(main())


def test_hub_of_which_dns_gives_one_address_at_a_time_has_all_of_the_last_hour(monkeypatch):
    monkeypatch.setattr(own_names, "TICK_SECONDS", 0.001)
    clock, lookups = Clock(), Counter()
    answers = {1: ["192.0.2.1"], 2: ["192.0.2.2"], 3: ["192.0.2.3"]}

    def ask(name):
        lookups[name] += 1
        return answers.get(lookups[name], ["192.0.2.3"])

    async def main():
        policy = Policy({}, frozenset({"hub.example"}))
        proxy = connections.Proxy(policy, Limits(), Resolver(ask, clock), Metrics(), clock=clock)

        async def look_up():
            clock.now += own_names.AGAIN_SECONDS
            async with asyncio.timeout(60):
                while clock.now not in proxy._own_names._found.get("hub.example", {}).values():
                    await asyncio.sleep(0.001)

        watching = asyncio.create_task(proxy.watch())
        for _ in range(3):
            await look_up()
        assert sorted(proxy._own_names.addresses()) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        clock.now += own_names.KEPT_SECONDS
        await look_up()
        assert proxy._own_names.addresses() == ["192.0.2.3"]
        watching.cancel()

    asyncio.run(main())


def test_hub_that_dns_does_not_find_at_first_is_looked_up_again_at_once(monkeypatch):
    """Without its addresses, other names that have them are open."""
    monkeypatch.setattr(own_names, "TICK_SECONDS", 0.001)
    answers, clock = [None, ["192.0.2.1"]], Clock()

    async def main():
        resolver = Resolver(lambda name: answers.pop(0), clock)
        proxy = connections.Proxy(Policy({}, frozenset({"hub.example"})), Limits(), resolver, Metrics(), clock=clock)
        watching = asyncio.create_task(proxy.watch())
        began = clock.now
        async with asyncio.timeout(60):
            while answers:
                await asyncio.sleep(0.001)
                # So far that a failure is forgotten, and not so far that every name is looked up.
                clock.now = min(clock.now + 0.1, began + own_names.AGAIN_SECONDS - 1)
        watching.cancel()

    asyncio.run(main())


def test_announced_name_that_dns_does_not_find_at_first_is_looked_up_again_at_once(monkeypatch):
    """It comes after the others have had their addresses for long."""
    monkeypatch.setattr(own_names, "TICK_SECONDS", 0.001)
    answers, clock, lookups = [None, ["192.0.2.2"]], Clock(), Counter()

    def ask(name):
        lookups[name] += 1
        return answers.pop(0) if name == "late.example" else ["192.0.2.1"]

    async def main():
        proxy = connections.Proxy(Policy({}, frozenset({"hub.example"})), Limits(), Resolver(ask, clock), Metrics(), clock=clock)
        watching = asyncio.create_task(proxy.watch())
        async with asyncio.timeout(60):
            while lookups["hub.example"] < 6:
                await asyncio.sleep(0.001)
                clock.now += 1
            clock.now += 5
            await asyncio.sleep(0.05)
            proxy.refuse("late.example")
            while len(answers) > 1:
                await asyncio.sleep(0.001)
            began = clock.now
            while answers:
                await asyncio.sleep(0.001)
                clock.now = min(clock.now + 0.1, began + 3)
        watching.cancel()

    asyncio.run(main())


@pytest.mark.parametrize("known", [True, False], ids=["whose address it was", "that was withdrawn before it came"])
def test_request_of_a_pod_is_not_that_of_the_next_with_its_address(known):
    """The first pod has sent its whole request and is gone before the second has the address."""

    async def main():
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

    asyncio.run(main())


def head(method, header, number):
    """A request with a number of equal headers."""
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
def test_connection_that_waits_keeps_little(sent, answer, monkeypatch):
    """What a client has sent stays in the proxy's memory while a host is looked up, or until the client has read a refusal."""
    monkeypatch.setattr(answers, "LINGER_SECONDS", 60.0)
    asked, number = [], 50

    class Unanswered(Resolver):
        async def addresses(self, name, server="", verified=True):
            asked.append(name)
            await asyncio.Event().wait()

    async def main():
        policy = Policy({"small": TierHosts(HostList(["a.example"]), frozenset({80, 443}))})
        proxy = connections.Proxy(policy, Limits(new_per_second=100), Unanswered(), Metrics())
        pod = PodAddresses("uid-1", "alice", "", ("127.0.0.1",), "small", False)
        proxy.identities.load(AddressVersion(), {"alice/": [pod]})
        proxy.identities.apply(AddressChange(AddressVersion()))
        port, loop = free_port(), asyncio.get_running_loop()
        listener = listen(port, "127.0.0.1")
        serving = asyncio.create_task(proxy.serve(listener))
        clients = []
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(number):
            client = socket.create_connection(("127.0.0.1", port))
            clients.append(client)
            client.setblocking(False)
            client.send(sent)
            if answer:
                assert await asyncio.wait_for(loop.sock_recv(client, len(answer)), 60) == answer
        async with asyncio.timeout(60):
            while not answer and len(asked) < number:
                await asyncio.sleep(0.01)
        kept = (tracemalloc.get_traced_memory()[0] - before) / number
        tracemalloc.stop()
        serving.cancel()
        listener.close()
        for client in clients:
            client.close()
        await proxy.drain(0)
        return kept

    # `h11` keeps each name twice, as it came and in lower case.
    assert asyncio.run(main()) <= 4 * requests.MAX_HEAD_BYTES


@contextmanager
def product_logs():
    """The product's logging configuration, for this test alone: its handler would write into the output of later tests."""
    configured = logs.configuration("info")
    loggers = [logging.getLogger(), *map(logging.getLogger, configured["loggers"])]
    before = [(one.level, one.propagate, one.handlers[:], one.filters[:]) for one in loggers]
    logging.config.dictConfig(configured)
    try:
        yield
    finally:
        for one, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
            one.setLevel(level)
            one.propagate, one.handlers[:], one.filters[:] = propagate, handlers, filters


def test_listed_host_counts_for_its_group_and_a_flood_for_its_server(capsys):
    """Metrics and logs: connections to listed hosts that have no address, and one beyond the limit."""
    pod = PodAddresses("uid-1", "alice", "", ("127.0.0.1",), "small", False, "https://github.com/org/" + "course" * 100)
    course = {"github.com/org/*": HostList(["api.example.org"])}
    policy = Policy({"small": TierHosts(HostList(["julia"]))}, repositories=course)

    async def main():
        metrics = Metrics()
        proxy = connections.Proxy(policy, Limits(new_per_second=1), Resolver(lambda name: []), metrics, clock=lambda: 100.0)
        proxy.identities.load(AddressVersion(), {"alice/": [pod]})
        proxy.identities.apply(AddressChange(AddressVersion()))
        port = free_port()
        listener = listen(port, "127.0.0.1")
        serving = asyncio.create_task(proxy.serve(listener))
        asked = (("pkg.julialang.org", 502), ("api.example.org", 502), ("pkg.julialang.org", 429))
        for host, answer in asked:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 %d" % answer)
            writer.close()
        serving.cancel()
        listener.close()
        await proxy.drain(5)
        return metrics.text().decode()

    with product_logs():
        found = asyncio.run(main())
    for rule, group in (("unresolved", "julia"), ("unresolved", "other"), ("limit", "")):
        labels = f'decision="refused",group="{group}",rule="{rule}",tier="small"'
        assert f"binder_egress_proxy_connections_total{{{labels}}} 1.0" in found
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["rule"], line["user"]) for line in lines] == [
        ("unresolved", "alice"),
        ("unresolved", "alice"),
        ("limit", "alice"),
    ]
    assert {line["repository"] for line in lines} == {pod.repository[:200]}  # a stranger's text, in each line


def test_refusals_of_a_server_are_logged_up_to_a_limit_for_each_rule_and_what_went_out_always(caplog):
    metrics = Metrics()
    proxy = connections.Proxy(Policy({}), Limits(), Resolver(), metrics, log_connections=True)
    pods = [PodAddresses(f"uid-{user}", user, "", ("127.0.0.1",), "small", False, "") for user in ("alice", "bob")]
    most = logs.MAX_LINES

    def note(pod, reason=None, cut=""):
        asked = Asked(Flow("127.0.0.1", None, cut=cut), requests.Tunnel("a.example.org", 443), pod)
        proxy._ended.note(asked.flow, asked, pod, Refusal(reason, 403, "") if reason else "ended")

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
