"""A client of the verifier's public HTTP interface, which `GET openapi.json` describes, with checks of its answers."""

import json
import re
import time
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

from . import __version__

PATIENCE = 10.0
"""The most seconds to connect to the verifier, between two parts of its answer, and for all of the answer's body."""

MAX_ANSWER = 256 * 1024
"""The most bytes in an answer. Usual answers have a few hundred, challenges one or two thousand."""

TIMES = ("until", "expires_in", "renewable_in")
"""Fields about a server's lease: a Unix time in seconds, and two numbers of seconds from now."""

UNREACHABLE = (requests.RequestException, urllib3.exceptions.HTTPError, ValueError)
"""Errors of a request that failed. ValueError is what `requests` raises if it is redirected to `http://[::1`."""

BINDERHUB_PAGE = b"window.pageConfig"
"""What BinderHub's page contains (its templates/page.html). BinderHub answers every path that it does not know with that page."""

USER_AGENT = f"binder-egress-client/{__version__}"


class NoAnswer(Exception):
    """No answer from the verifier: silence, a fault, or something else answers in its place. The text says which."""


class NoGate(Exception):
    """No verifier at this address: the hub has no egress gate, or its verifier is elsewhere."""


class Refused(Exception):
    """The verifier refused.

    Args:
        kind: the last part of the problem's `type`, such as `budget-spent`.
        detail: a sentence for people.
        retry_after: seconds after which it makes sense to try again; None if unknown.
    """

    def __init__(self, kind: str, detail: str, retry_after: int | None = None):
        super().__init__(detail)
        self.kind = kind
        self.retry_after = retry_after


class _Bearer(AuthBase):
    """A bearer token. Unlike a header, `requests` does not let ~/.netrc replace it."""

    def __init__(self, key: str):
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def new_session() -> requests.Session:
    """A session with this client's `User-Agent` and the environment's proxies."""
    session = requests.Session()
    session.headers["User-Agent"] = USER_AGENT
    return session


def reason(error: BaseException) -> str:
    """The reason why a connection failed, without its address, which may contain a pass."""
    by_proxy = "the proxy in the environment: " if isinstance(error, requests.exceptions.ProxyError) else ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            # http.client's "Tunnel connection failed: 407 …" has no strerror.
            said = cause.strerror or (str(cause) if by_proxy else "")
            if said:
                return f"{by_proxy}{said}"
        # urllib3 puts TLS errors into an exception's arguments, not into its cause.
        cause = cause.__cause__ or cause.__context__ or next((one for one in cause.args if isinstance(one, BaseException)), None)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError | urllib3.exceptions.ProtocolError):
        return "the connection broke"
    return {
        "ConnectionError": "the connection broke",
        "InvalidURL": "this is not an address",
        "LocationParseError": "this is not an address",
        "UnicodeDecodeError": "it redirects to something that is not an address",
        "ValueError": "it redirects to something that is not an address",
        "InvalidProxyURL": "the proxy in the environment is not an address",
        "InvalidSchema": "this kind of address or proxy is not supported (for SOCKS: pip install PySocks)",
        "TooManyRedirects": "too many redirects",
    }.get(type(error).__name__, type(error).__name__)


def _is_time(found: object) -> bool:
    """Whether a value is a plausible number of seconds, or None. 10¹¹ seconds are three thousand years."""
    return found is None or (isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 10**11)


class Server(NamedTuple):
    """A user server: its verifier's address, ending in "/", and its path there, `servers/<user>/` or `servers/<user>/<server>`."""

    verifier: str
    path: str

    @classmethod
    def of_unlock_address(cls, address: str) -> Self:
        """From the value of a server's environment variable `BINDER_EGRESS_URL`.

        Raises:
            ValueError: the text is not such an address.
        """
        parts = urlsplit(address)
        if "@" in parts.netloc:
            # The link shows the address.
            raise ValueError("leave user and password out of the address")
        # The address of a default server has a slash at its end, the address of a named one has none.
        found = re.fullmatch(r"(.*/)(servers/[^/]+(?:/[^/]+|/)?)/?", parts.path)
        if parts.scheme not in ("http", "https") or not parts.netloc or not found:
            raise ValueError("it must look like https://hub.example.org/egress/servers/NAME/")
        return cls(f"{parts.scheme}://{parts.netloc}{found[1]}", found[2])

    @classmethod
    def of_server_address(cls, verifier: str, address: str) -> Self:
        """From the address of the server itself, as BinderHub's `ready` event has it.

        Raises:
            ValueError: the text is not the address of a server.
        """
        match urlsplit(address).path.rstrip("/").split("/"):
            case [_, *_, "user", user, server] if user and server:
                return cls(verifier, f"servers/{user}/{server}")
            case [_, *_, "user", user]:
                return cls(verifier, f"servers/{user}/")
        raise ValueError(f"{address} is not the address of a server")

    @property
    def link(self) -> str:
        """The page that unlocks the server in any browser, without a further click."""
        return f"{self.verifier}{self.path}#unlock"


class Verifier:
    """The verifier of a hub. Every method may raise `NoGate`, `NoAnswer` and `Refused`.

    Args:
        url: its address, which usually ends in "/egress/".
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/") + "/"
        self._session = new_session()

    def challenge(self, purpose: str) -> dict[str, Any]:
        """Ask for challenges, for the purpose `launch` (they earn a pass) or `unlock`."""
        answer = self._ask("GET", f"challenge?purpose={purpose}")
        if not isinstance(answer.get("providers"), list):
            raise NoAnswer(f"{self.url} answers, but not as a verifier does")
        return answer

    def pass_for_solution(self, provider: str, solution: str) -> dict[str, Any]:
        """Exchange a solution for a pass: `token`, `expires_in`, `servers`, `tier`."""
        return self._pass({"provider": provider, "solution": solution})

    def pass_for_key(self, key: str) -> dict[str, Any]:
        """Get a pass with an API key. No other request carries the key."""
        return self._pass({}, _Bearer(key))

    def show(self, server: Server) -> dict[str, Any]:
        """The status of a server: `tier`, `access`, `unlockable`; of a lease `until`, `expires_in`, `on_expiry`, `renewable_in`."""
        return self._server("GET", server)

    def unlock(self, server: Server, **body: str) -> dict[str, Any]:
        """Unlock or renew a server with `token`, or with `provider` and `solution`: its status, and `state` (`granted`,
        `pending`)."""
        return self._server("POST", server, body)

    def _pass(self, body: dict[str, str], auth: AuthBase | None = None) -> dict[str, Any]:
        answer = self._ask("POST", "passes", body, auth)
        token = answer.get("token")
        lasts = answer.get("expires_in")
        if not isinstance(token, str) or not re.fullmatch("[!-~]+", token) or lasts is None or not _is_time(lasts):
            raise NoAnswer(f"{self.url} answers, but without a pass")
        return answer

    def _server(self, method: str, server: Server, body: dict[str, str] | None = None) -> dict[str, Any]:
        answer = self._ask(method, server.path, body)
        tier = answer.get("tier")
        if not isinstance(tier, str) or not tier.isprintable() or not all(_is_time(answer.get(name)) for name in TIMES):
            raise NoAnswer(f"{self.url} answers, but not as a verifier does")
        return answer

    def _ask(self, method: str, path: str, body: dict[str, str] | None = None, auth: AuthBase | None = None) -> dict[str, Any]:
        content, deadline = bytearray(), time.monotonic() + PATIENCE
        try:
            # A redirect would turn a POST into a GET, or carry a key to another host.
            with self._session.request(
                method,
                self.url + path,
                json=body,
                auth=auth,
                headers={"Accept": "application/json, application/problem+json", "Accept-Encoding": "identity"},
                timeout=PATIENCE,
                allow_redirects=method == "GET",
                stream=True,
            ) as answer:
                # The timeout of `requests` is for each read, not for the whole answer.
                while chunk := answer.raw.read1(65536, decode_content=True):
                    content += chunk
                    if len(content) > MAX_ANSWER or time.monotonic() > deadline:
                        raise NoAnswer(f"the answer from {self.url} does not end")
        except UNREACHABLE as error:
            raise NoAnswer(f"{self.url} does not answer: {reason(error)}") from None
        if answer.is_redirect:
            raise NoAnswer(f"{self.url} redirects elsewhere; give the address that it leads to")
        if method == "GET" and answer.history and path.startswith("challenge") and "/challenge" in answer.url:
            # Usually from http to https. Later requests go there directly.
            self.url = answer.url.rpartition("/challenge")[0] + "/"
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        problem = isinstance(found, dict) and "#" in str(found.get("type"))
        # Other HTML may be the page of a network that asks people to sign in, and says nothing about the hub.
        html = answer.headers.get("Content-Type", "").lower().startswith("text/html")
        binderhub = method == "GET" and answer.status_code == 200 and html and BINDERHUB_PAGE in content
        if binderhub or (answer.status_code in (404, 405) and not problem):
            raise NoGate(f"there is no verifier at {self.url}")
        if not isinstance(found, dict) or not (answer.ok or problem):
            raise NoAnswer(f"{self.url} answers {answer.status_code}, but not as a verifier does")
        if answer.ok:
            return found
        detail = str(found.get("detail") or found.get("title") or "no reason given")
        if answer.status_code >= 500:
            raise NoAnswer(f"{self.url} cannot decide: {detail}")
        wait = answer.headers.get("Retry-After", "")
        # A longer number is no plausible time, as in `_is_time`.
        raise Refused(str(found["type"]).rpartition("#")[2], detail, int(wait) if re.fullmatch("[0-9]{1,11}", wait) else None)
