"""The beginning of a tunnel, until the host has answered the ClientHello (D-403)."""

import asyncio
import socket

from .decide import Policy, decide_hello
from .flow import Connected
from .hello import HEADER_BYTES, MAX_HELLO_BYTES, read_answer, read_hello
from .refusals import Reason, Refusal
from .requests import RequestRefused, Tunnel
from .splice import Pump, take

HELLO_SECONDS = 10.0
"""Time limit for the ClientHello after the answer to CONNECT, and for another one that the host asks for, in seconds."""

ANSWER_SECONDS = 60.0
"""Time limit for a host to answer a ClientHello, in seconds. A connection whose client has ended its side may be quiet for as long,
because the proxy does not notice meanwhile that the client has ended it."""


async def begin(flow: Connected, request: Tunnel, policy: Policy) -> None:
    """Pass the ClientHello on, and a second one if the host asks for it (HelloRetryRequest), and begin to move what follows. Both
    are judged, so the host gets nothing else until it has answered.

    Raises:
        RequestRefused: a hello is not for the host, or the host's answer is not TLS.
        OSError: the connection broke, or a side took too long.
    """
    answer = b""
    sent, request.early = request.early, b""
    for _ in range(2):
        end, sent = await _read_hello(flow, sent, policy)
        await _pass(flow, flow.upstream, sent[:end])
        sent = sent[end:]
        retried, answer = await _pass_answer(flow, answer)
        if not retried:
            if sent:
                await _pass(flow, flow.upstream, sent)
            flow.pumps += [Pump(flow.client, flow.upstream, flow.buckets), Pump(flow.upstream, flow.client, flow.buckets)]
            return
    # A host asks once at most (RFC 8446, section 4.1.4).
    raise RequestRefused(Refusal(Reason.NOT_TLS, 0, ""))


async def _read_hello(flow: Connected, received: bytes, policy: Policy) -> tuple[int, bytes]:
    """Read the ClientHello, or the second one, and end the tunnel if it is not for the host. Returns where it ends in all bytes
    received, and these."""
    loop, before = asyncio.get_running_loop(), flow.hello
    async with asyncio.timeout(HELLO_SECONDS):
        while not (hello := read_hello(received, again=before.complete)).complete:
            # No more than a hello may have, because what follows it stays in memory until the host answers.
            more = await loop.sock_recv(flow.client, MAX_HELLO_BYTES + HEADER_BYTES - len(received))
            if not more:
                raise ConnectionError
            received += more
    flow.hello = hello
    reason = decide_hello(flow.pod, flow.request.host, hello.name, hello.is_tls, policy)
    if not reason and before.complete and before.name != hello.name:
        reason = Reason.SERVER_NAME  # Where both are allowed, one names the host, the other none.
    if reason:
        # TLS has no message for this. The client sees a closed connection, and operators see the reason.
        raise RequestRefused(Refusal(reason, 0, ""))
    return hello.end, received


async def _pass_answer(flow: Connected, received: bytes) -> tuple[bool, bytes]:
    """Pass on what the host sends, until it is clear whether the host asks for a second ClientHello (HelloRetryRequest).
    Returns whether it does and, if so, the bytes that came after the HelloRetryRequest."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(ANSWER_SECONDS):
        while not (answer := read_answer(received)).complete:
            # What comes after a HelloRetryRequest stays in memory until the client has answered it. A read of 0 bytes would
            # look like the host's end.
            more = await loop.sock_recv(flow.upstream, max(1, MAX_HELLO_BYTES + HEADER_BYTES - len(received)))
            if not more:
                return False, b""  # A host that has ended its side answers nothing any more. The pumps end the other side.
            await _pass(flow, flow.client, more)
            received += more
    if not answer.is_tls:
        raise RequestRefused(Refusal(Reason.NOT_TLS, 0, ""))
    return bool(answer.retry_end), received[answer.retry_end :]


async def _pass(flow: Connected, target: socket.socket, content: bytes) -> None:
    """Send bytes to one side before the pumps move them."""
    await asyncio.get_running_loop().sock_sendall(target, content)
    flow.sent += len(content)
    take(flow.buckets, len(content))  # The pumps wait as long as the limits of bytes require.
