"""What the egress proxy tells a client that it refuses, and the reason as in logs and metrics. `decide` says when."""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote


class Reason(StrEnum):
    """Why a connection is refused or cut, as in logs and metrics."""

    UNKNOWN = "unknown"  # the proxy does not know which pod has the address
    BLOCKED = "blocked"  # an operator's block
    NO_HOSTS = "no-hosts"  # this tier may reach nothing through the proxy
    NOT_LISTED = "not-listed"
    NOT_A_NAME = "not-a-name"
    PORT = "port"
    OWN_NAME = "own-name"  # a name of this hub, or what it resolves to
    ADDRESS = "address"  # the host has a private, special or banned address
    UNRESOLVED = "unresolved"  # the host name has no address
    UNANSWERED = "unanswered"  # DNS gives no answer
    NOT_TLS = "not-tls"  # the client or the host does not begin as TLS does
    SERVER_NAME = "server-name"  # a ClientHello names another host or none
    REQUEST = "request"  # not well-formed
    LIMIT = "limit"
    HOST_LIMIT = "host-limit"  # too many connections to one address of the host, from all servers
    NEW_HOSTS = "new-hosts"  # too many addresses tried in a minute, by this server
    UNREACHABLE = "unreachable"
    NOT_TAKEN = "not-taken"  # cut: too many bytes wait for this server, or for hosts that it sends to


class End(StrEnum):
    """How a connection ended that was neither refused nor cut."""

    ENDED = "ended"  # both sides had sent everything
    BROKEN = "broken"  # a side reset it, or did not keep to HTTP
    TIMEOUT = "timeout"  # nothing moved for too long
    STOPPED = "stopped"  # the proxy ends
    FAULT = "fault"  # of the proxy, which has logged it


@dataclass(frozen=True)
class Refusal:
    """A refusal, as the client gets it.

    Attributes:
        reason: the reason.
        status: the HTTP status.
        sentence: what to do, in one line of ASCII; it is both the reason phrase and the body.
        error: the word of RFC 9209 for `Proxy-Status`.
    """

    reason: Reason
    status: int
    sentence: str
    error: str = "http_request_denied"


UNKNOWN = Refusal(Reason.UNKNOWN, 503, "The egress proxy does not know this server yet, try again", "proxy_internal_error")
NOT_A_NAME = Refusal(Reason.NOT_A_NAME, 403, "Use a host name: addresses are refused")
OWN_NAME = Refusal(Reason.OWN_NAME, 403, "The hub itself is not reachable through its egress proxy")
PORT = Refusal(Reason.PORT, 403, "Only https on port 443 and http on port 80 go through the egress proxy")
NO_HOSTS = Refusal(Reason.NO_HOSTS, 403, "This server has no hosts behind the egress proxy: unset HTTPS_PROXY and HTTP_PROXY")
UNANSWERED = Refusal(Reason.UNANSWERED, 504, "DNS does not answer, try again", "dns_timeout")
UNRESOLVED = Refusal(Reason.UNRESOLVED, 502, "The host name has no address", "dns_error")
ADDRESS = Refusal(Reason.ADDRESS, 403, "The host has a private or special address", "destination_ip_prohibited")
LIMIT = Refusal(Reason.LIMIT, 429, "This server opens too many connections, try again", "connection_limit_reached")
HOST_LIMIT = Refusal(
    Reason.HOST_LIMIT, 503, "Too many connections to this host in the last minute, try again", "connection_limit_reached"
)
NEW_HOSTS = Refusal(
    Reason.NEW_HOSTS, 429, "This server has tried too many hosts in the last minute, try again later", "connection_limit_reached"
)
UNREACHABLE = Refusal(Reason.UNREACHABLE, 502, "The host does not answer", "destination_unavailable")


def blocked(contact: str) -> Refusal:
    """The refusal of everything that a blocked server asks for. The contact, whom its owner may ask, may be empty."""
    ask = f": ask {contact}" if contact else ""
    return Refusal(Reason.BLOCKED, 403, f"This server is blocked by the operators of this site{ask}")


def not_listed(name: str) -> Refusal:
    """The refusal of a host that is not on the server's list."""
    return Refusal(Reason.NOT_LISTED, 403, f"Not on the list of this server: {name}")


def no_access(reason: Reason, pages: str, user: str, server: str) -> Refusal:
    """The refusal of a server without a tier. `pages` is the address of pages, up to the user's name; empty: unknown."""
    if not pages:
        return Refusal(reason, 403, "No internet access: open the address in BINDER_EGRESS_URL")
    return Refusal(reason, 403, f"No internet access: open {pages}{quote(user, safe='')}/{quote(server, safe='')}")


def malformed(sentence: str, status: int = 400) -> Refusal:
    """The refusal of a request that the proxy cannot read, with an HTTP status."""
    return Refusal(Reason.REQUEST, status, sentence, "http_request_error")


HTTP_VERSION = malformed("The egress proxy speaks HTTP/1.1")
TOO_MANY_HEADERS = malformed("The request has too many headers", 431)
NOT_ABSOLUTE = malformed("Use an absolute http:// address, or CONNECT for https")
NOT_AN_AUTHORITY = malformed("The address is not host:port")
OTHER_HOST = malformed("The Host header names another host than the address")
CHUNKS_BEFORE_HTTP_1_1 = malformed("HTTP/1.0 has no Transfer-Encoding")
TWO_LENGTHS = malformed("Content-Length and Transfer-Encoding exclude each other")
TOO_LATE = malformed("No request came in time", 408)


def not_http(status: int) -> Refusal:
    """The refusal of what `h11` cannot read, with the HTTP status that it suggests."""
    return malformed("The request is not well-formed", status)
