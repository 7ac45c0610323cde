"""The public port's headers: which sites' pages may send requests (CORS), what pages may load (CSP), and what may be cached."""

from urllib.parse import urlsplit

from flask import Flask, Response, request

from . import hub
from .context import services
from .problems import Problem

SERVER_PAGE = "servers.show_server"
"""The endpoint of the servers' pages."""

STATIC_FILES = "public.static"
"""The endpoint of the front end's files. Their names contain a checksum of their content."""

LAUNCH_SCRIPT, THIRD_PARTY_SCRIPT = "public.launch_script", "public.third_party_script"
"""The endpoints of the scripts that pages on other hosts load."""

THIRD_PARTY = ("third-party.js", "third-party.mjs")
"""The script for third-party pages: plain, and as a module. The content under these names changes."""

CSP = {
    "default-src": ["'none'"],
    "script-src": ["'self'"],
    "style-src": ["'self'"],
    "connect-src": ["'self'"],
    "img-src": ["'self'"],
    "worker-src": ["'self'"],
    "base-uri": ["'none'"],
    "form-action": ["'none'"],
    "frame-ancestors": ["'none'"],
}
"""The Content-Security-Policy of every answer: directive → sources."""

PLAIN_CSP = "; ".join(" ".join([name, *sources]) for name, sources in CSP.items())
"""The same as a header, for answers that run nothing: most are JSON."""


def register(app: Flask) -> None:
    """Check the origin of every request to an app, and give every answer its headers."""
    app.before_request(_check_origin)
    app.after_request(_add_headers)


def _check_origin() -> Response | None:
    """Refuse a POST from another site's page unless the operator listed that site. Answer a page's preflight."""
    if request.blueprint is None:
        return None  # There is no view at this address.
    if request.method == "OPTIONS":
        return Response(status=204)
    origin = request.headers.get("Origin")
    if request.method == "POST" and origin and not _is_own(origin) and not _is_listed(origin):
        raise Problem("forbidden-origin", f"Ask the operator to add {origin!r} to allowedOrigins.")
    return None


def _is_own(origin: str) -> bool:
    # The scheme is not compared: it differs behind an ingress that ends TLS.
    try:
        host = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    public_url = services().settings.public_url
    return host in {request.host.lower(), *([urlsplit(public_url).netloc.lower()] if public_url else [])}


def _is_listed(origin: str) -> bool:
    listed = services().settings.allowed_origins
    return origin in listed or "*" in listed


def _add_headers(answer: Response) -> Response:
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "no-referrer"
    answer.headers.setdefault("Content-Security-Policy", _csp(answer))
    if request.endpoint == SERVER_PAGE and answer.mimetype == "text/html":
        # No provider's widget needs any of these.
        answer.headers["Permissions-Policy"] = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
    if request.endpoint in (STATIC_FILES, LAUNCH_SCRIPT, THIRD_PARTY_SCRIPT):
        # Pages on other hosts load these, and such a page may be isolated (Cross-Origin-Embedder-Policy).
        answer.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    answer.headers["Cache-Control"] = _cache_control(answer)
    answer.vary.add("Origin")
    origin = request.headers.get("Origin")
    if origin and _is_listed(origin):
        _allow_origin(answer, origin)
    elif origin and _is_state(answer) and origin == hub.origin():
        # D-302: all user pages of a hub share this origin, so it may read this and do nothing else.
        answer.headers["Access-Control-Allow-Origin"] = origin
    return answer


def _is_state(answer: Response) -> bool:
    """Whether an answer is a server's state as JSON, or a problem instead of it."""
    return request.method == "GET" and request.endpoint == SERVER_PAGE and answer.is_json


def _csp(answer: Response) -> str:
    """The Content-Security-Policy of an answer. What captcha providers need is added only where their widgets run."""
    if answer.mimetype == "text/html":
        widgets = services().captcha.page_csp() if request.endpoint == SERVER_PAGE and answer.status_code == 200 else {}
        brand = services().brand.csp
        more = {name: _joined(widgets.get(name, []), brand.get(name, [])) for name in widgets | brand}
    elif request.endpoint == STATIC_FILES:
        more = services().captcha.worker_csp()
    else:
        return PLAIN_CSP
    return "; ".join(" ".join([name, *CSP.get(name, []), *more.get(name, [])]) for name in CSP | more)


def _joined(widgets: list[str], brand: list[str]) -> list[str]:
    """The sources of a directive. Beside `'unsafe-inline'`, checksums are left out: with one, browsers ignore `'unsafe-inline'`."""
    inline = "'unsafe-inline'" in widgets
    return widgets + [source for source in brand if not (inline and source.startswith("'sha256-"))]


def _cache_control(answer: Response) -> str:
    """What browsers and proxies may cache: files whose names change with their content for a year, decisions never. What has an
    ETag is kept, and asked for each time."""
    if answer.status_code not in (200, 304) or "ETag" not in answer.headers:
        return "no-store"
    if request.endpoint in (STATIC_FILES, THIRD_PARTY_SCRIPT) and (request.view_args or {}).get("file") not in THIRD_PARTY:
        return "public, max-age=31536000, immutable"
    return "no-cache"


def _allow_origin(answer: Response, origin: str) -> None:
    answer.headers["Access-Control-Allow-Origin"] = origin
    answer.headers["Access-Control-Allow-Methods"] = "GET, POST"
    # API keys are sent in Authorization, and only `issue_pass` accepts them.
    takes_keys = request.endpoint == "passes.issue_pass"
    answer.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type" if takes_keys else "Content-Type"
    answer.headers["Access-Control-Expose-Headers"] = "Retry-After"
    answer.headers["Access-Control-Max-Age"] = "600"
