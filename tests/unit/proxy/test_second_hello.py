"""The server of the egress proxy: the beginning of a tunnel, until the host has answered the ClientHello (D-403)."""

import asyncio
import socket
import ssl
import tracemalloc
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.certificates import certificate
from tests.support.egress_proxy.hellos import CHANGE_CIPHER_SPEC, RETRY, hello_1_3, hello_for, server_hello
from tests.support.egress_proxy.loopback import publish, served
from verifier.grants import UNVERIFIED
from verifier.proxy import connections, tunnels, upstream
from verifier.proxy.decide import Policy, TierHosts
from verifier.proxy.hello import MAX_HELLO_BYTES
from verifier.proxy.hosts import HostList
from verifier.proxy.limits import Limits
from verifier.proxy.metrics import Metrics
from verifier.proxy.resolve import Resolver

ANY = "any"
POLICY = Policy({UNVERIFIED: TierHosts(HostList(["a.example"])), ANY: TierHosts(HostList(["*"]))})

NO_KEY, WITH_KEY, OTHER = hello_1_3("a.example", has_key=False), hello_1_3("a.example"), hello_1_3("b.example")
NO_NAME = hello_1_3(has_key=False), hello_1_3()
EARLY_DATA = b"\x17\x03\x03\0\x05early"
ASKS, ANSWERS = server_hello(RETRY), server_hello()
WARNING, ALERT = b"\x15\x03\x03\0\x02\x01\x70", b"\x15\x03\x03\0\x02\x02\x28"

ENDED, OTHER_NAME, NOT_TLS = ("allowed", "ended"), ("refused", "server-name"), ("refused", "not-tls")


@asynccontextmanager
async def tunnel(monkeypatch, tier=UNVERIFIED, buffer=0):
    """A pod has an open tunnel to `a.example`. Yields the sockets of both ends, and the proxy. `buffer`: bytes that the pod can
    receive without reading."""
    proxy = connections.Proxy(POLICY, Limits(), Resolver(lambda name: ["203.0.113.1"]), Metrics(), log_connections=True)
    publish(proxy, tier)
    ours, host = socket.socketpair()
    ours.setblocking(False)
    host.settimeout(60)

    async def connected(address, port, seconds):
        return ours

    monkeypatch.setattr(upstream, "_connected", connected)
    async with served(proxy) as address:
        with socket.socket() as pod, host:
            pod.settimeout(60)
            if buffer:
                pod.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            pod.connect(address)
            pod.sendall(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await asyncio.to_thread(pod.recv, 1)
            assert b" 200 " in head
            yield pod, host, proxy


# -- hosts with OpenSSL


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    certificate(folder, "host")
    return folder / "host.crt", folder / "host.key"


@pytest.fixture
def server(pem):
    """A host that answers what it gets in TLS, and the names in its ClientHellos."""
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(*pem)
    context.sni_callback = lambda connection, name, _: names.append(name)

    def serve(host):
        with suppress(OSError), context.wrap_socket(host, server_side=True) as secure:
            secure.sendall(secure.recv(100))

    return context, names, serve


def spoken(pod):
    """What a host answers to Python's TLS."""
    with ssl._create_unverified_context().wrap_socket(pod, server_hostname="a.example") as secure:
        secure.sendall(b"hello")
        return secure.version(), secure.recv(100)


@pytest.mark.parametrize(
    ("curve", "newest", "hellos"),
    [
        pytest.param("prime256v1", ssl.TLSVersion.TLSv1_2, 1, id="TLS 1.2"),
        pytest.param("X25519", ssl.TLSVersion.TLSv1_3, 1, id="a key that the client sends"),
        pytest.param("secp521r1", ssl.TLSVersion.TLSv1_3, 2, id="a key that the client sends only if asked"),
    ],
)
async def test_honest_client_reaches_a_host_of_any_kind(curve, newest, hellos, server, monkeypatch, ends):
    context, names, serve = server
    context.set_ecdh_curve(curve)
    context.maximum_version = newest

    async with tunnel(monkeypatch) as (pod, host, _):
        seen = (await asyncio.gather(asyncio.to_thread(spoken, pod), asyncio.to_thread(serve, host)))[0]
    assert seen == (newest.name.replace("_", "."), b"hello")
    assert names == ["a.example"] * hellos
    assert ends() == [ENDED]


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "when asked"])
async def test_second_hello_for_another_host_does_not_reach_an_openssl_host(at_once, server, monkeypatch, ends):
    _, names, serve = server

    def escape(pod):
        pod.sendall(NO_KEY + (OTHER if at_once else b""))
        seen = pod.recv(4096)
        assert RETRY in seen
        if not at_once:
            pod.sendall(OTHER)
        while len(seen) < 300 and (more := pod.recv(4096)):
            seen += more
        return seen

    async with tunnel(monkeypatch) as (pod, host, _):
        serving = asyncio.create_task(asyncio.to_thread(serve, host))
        seen = await asyncio.to_thread(escape, pod)
        await serving
    assert len(seen) < 300  # no certificate
    assert names == ["a.example"]
    assert ends() == [OTHER_NAME]


# -- hosts that answer a set text


def received(one, length):
    """That many bytes, or those until the end."""
    found = b""
    while len(found) < length and (more := one.recv(length - len(found))):
        found += more
    return found


async def exchange(monkeypatch, turns, tier=UNVERIFIED, is_open=True):
    """In turns, the pod sends bytes, and the host answers, in pieces if it has a list of them. The host ends a tunnel that is open
    then. Returns what each got that the other sent, until the host had no answer, and what each got in the end."""
    async with tunnel(monkeypatch, tier) as (pod, host, _):
        got = []
        for sent, answer in turns:
            await asyncio.to_thread(pod.sendall, sent)
            if not answer:
                break
            got.append(await asyncio.to_thread(received, host, len(sent)))
            pieces = answer if isinstance(answer, list) else [answer]
            for piece in pieces:
                await asyncio.to_thread(host.sendall, piece)
                await asyncio.sleep(0.002 * (len(pieces) > 1))
            got.append(await asyncio.to_thread(received, pod, len(b"".join(pieces))))
        if is_open:
            host.shutdown(socket.SHUT_WR)
        end = await asyncio.to_thread(received, pod, 1)
        pod.close()
        return got, end, await asyncio.to_thread(received, host, 1 << 20)


def through(*turns):
    """What both sides get if everything is passed on."""
    return [part for sent, answer in turns for part in (sent, b"".join(answer) if isinstance(answer, list) else answer)], b"", b""


@pytest.mark.parametrize(
    ("turns", "tier"),
    [
        pytest.param([(hello_for("a.example"), ANSWERS), (b"more", b"more")], UNVERIFIED, id="no question"),
        pytest.param([(NO_KEY, ASKS), (WITH_KEY, ANSWERS), (b"more", b"more")], UNVERIFIED, id="question"),
        pytest.param([(NO_KEY, [bytes([one]) for one in ASKS]), (WITH_KEY, ANSWERS)], UNVERIFIED, id="question in pieces"),
        pytest.param([(NO_KEY, [ANSWERS[:20], ANSWERS[20:]])], UNVERIFIED, id="answer in pieces"),
        pytest.param([(NO_KEY, WARNING + ANSWERS), (b"more", b"more")], UNVERIFIED, id="warning"),
        pytest.param([(NO_KEY, ALERT), (b"more", b"more")], UNVERIFIED, id="alert"),
        pytest.param([(NO_KEY, ASKS), (EARLY_DATA + WITH_KEY, ANSWERS)], UNVERIFIED, id="early data before a second hello"),
        pytest.param([(NO_NAME[0], ASKS), (NO_NAME[1], ANSWERS)], ANY, id="no name"),
    ],
)
async def test_hellos_for_one_host_are_passed_on(turns, tier, monkeypatch, ends):
    assert await exchange(monkeypatch, turns, tier) == through(*turns)
    assert ends() == [ENDED]


@pytest.mark.parametrize(
    ("turns", "end", "tier"),
    [
        pytest.param([(NO_KEY, ASKS), (OTHER, b"")], OTHER_NAME, UNVERIFIED, id="another name"),
        pytest.param([(NO_KEY, ASKS), (NO_NAME[1], b"")], OTHER_NAME, UNVERIFIED, id="no name"),
        pytest.param([(NO_KEY, ASKS), (NO_NAME[1], b"")], OTHER_NAME, ANY, id="no name any more"),
        pytest.param([(NO_NAME[0], ASKS), (WITH_KEY, b"")], OTHER_NAME, ANY, id="a name at last"),
        pytest.param([(NO_KEY, [ASKS[:30], ASKS[30:]]), (OTHER, b"")], OTHER_NAME, UNVERIFIED, id="asked in pieces"),
        pytest.param([(NO_KEY, ASKS), (EARLY_DATA + OTHER, b"")], OTHER_NAME, UNVERIFIED, id="after early data"),
        pytest.param([(NO_KEY, ASKS), (b"GET / HTTP/1.1\r\n\r\n", b"")], NOT_TLS, UNVERIFIED, id="no hello"),
        pytest.param([(NO_KEY, ASKS), (WITH_KEY, ASKS)], NOT_TLS, UNVERIFIED, id="second question"),
        pytest.param([(NO_KEY, b"HTTP/1.1 400 Bad Request\r\n")], NOT_TLS, UNVERIFIED, id="host without TLS"),
    ],
)  # fmt: skip
async def test_other_hellos_end_the_tunnel(turns, end, tier, monkeypatch, ends):
    got, *rest = await exchange(monkeypatch, turns, tier, is_open=False)
    passed_on, *_ = through(*(turn for turn in turns if turn[1]))
    assert (got, rest) == (passed_on, [b"", b""])
    assert ends() == [end]


@pytest.mark.parametrize("early", [CHANGE_CIPHER_SPEC + EARLY_DATA, bytes(2 * MAX_HELLO_BYTES)], ids=["early data", "much"])
async def test_host_gets_what_follows_the_hello_once_it_has_answered(early, monkeypatch, ends):
    async with tunnel(monkeypatch) as (pod, host, _):
        await asyncio.to_thread(pod.sendall, WITH_KEY + early)
        assert await asyncio.to_thread(received, host, len(WITH_KEY)) == WITH_KEY
        await asyncio.sleep(0.05)
        host.setblocking(False)
        with pytest.raises(BlockingIOError):
            host.recv(1)
        host.settimeout(60)
        host.sendall(ANSWERS)
        assert await asyncio.to_thread(received, host, len(early)) == early
        assert await asyncio.to_thread(received, pod, len(ANSWERS)) == ANSWERS
    assert ends() == [ENDED]


@pytest.mark.parametrize("answer", [b"", ALERT, ASKS[:20]], ids=["nothing", "alert", "half an answer"])
async def test_host_that_closes_at_once_closes_the_tunnel(answer, monkeypatch, ends):
    assert await exchange(monkeypatch, [(WITH_KEY, answer)]) == (through((WITH_KEY, answer)) if answer else ([], b"", WITH_KEY))
    assert ends() == [ENDED]


@pytest.mark.parametrize("broken", [False, True], ids=["no TLS", "broken"])
async def test_client_that_reads_nothing_keeps_its_connection(broken, monkeypatch, ends):
    """What the host has sent would otherwise stay in the kernel for minutes, and nothing would count it."""
    answer = (ANSWERS if broken else b"") + bytes(60_000)

    async with tunnel(monkeypatch, buffer=2048) as (pod, host, proxy):
        pod.sendall(WITH_KEY + b"more")
        await asyncio.to_thread(received, host, len(WITH_KEY))
        if broken:
            host.shutdown(socket.SHUT_RD)  # What follows the hello cannot be passed on.
        host.sendall(answer)
        await asyncio.sleep(0.2)
        assert proxy.open == 1
        assert len(await asyncio.to_thread(received, pod, len(answer))) > 10_000
    assert len(ends()) == 1


async def test_judged_bytes_are_not_kept_while_the_client_reads_nothing(monkeypatch):
    """They are 16 KiB of each side, and the client may take an hour."""

    async with tunnel(monkeypatch, buffer=2048) as (pod, host, proxy):
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            pod.sendall(WITH_KEY + bytes(14_000))
            await asyncio.to_thread(received, host, len(WITH_KEY))
            host.sendall(bytes(60_000))
            await asyncio.sleep(0.5)
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert proxy.open == 1
        await asyncio.to_thread(received, pod, 60_000)
    assert kept < 12_000


@pytest.mark.parametrize("answer", [b"", WARNING, ASKS[:20]], ids=["nothing", "warning", "half an answer"])
async def test_tunnel_to_a_host_that_does_not_answer_ends_in_time(answer, monkeypatch, ends):
    monkeypatch.setattr(tunnels, "ANSWER_SECONDS", 0.1)

    async with tunnel(monkeypatch) as (pod, host, _):
        pod.sendall(WITH_KEY)
        host.sendall(answer)
        with suppress(ConnectionResetError):
            assert await asyncio.to_thread(received, pod, 1000) in (answer, b"")
    assert ends() == [("allowed", "TimeoutError")]


async def test_second_hello_has_a_time_limit(monkeypatch, ends):
    async with tunnel(monkeypatch) as (pod, host, _):
        pod.sendall(NO_KEY)
        await asyncio.to_thread(received, host, len(NO_KEY))
        monkeypatch.setattr(tunnels, "HELLO_SECONDS", 0.1)
        host.sendall(ASKS)
        with suppress(ConnectionResetError):
            assert await asyncio.to_thread(received, pod, 1000) in (ASKS, b"")
    assert ends() == [("allowed", "TimeoutError")]
