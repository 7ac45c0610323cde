"""The remote captcha providers: one row each, from its documentation.

To add a provider, add a row. No other Python code knows a provider's name; `frontend/src/widgets.js` shows its widget, and the
chart lists its values.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from .base import Outcome
from .siteverify import DAY_SECONDS, Row

_REJECTED, _MISCONFIGURED, _UNAVAILABLE = Outcome.REJECTED, Outcome.MISCONFIGURED, Outcome.UNAVAILABLE


def _read_success(status: int, body: Mapping[str, object]) -> tuple[object, object]:
    """hCaptcha, Turnstile and reCAPTCHA: `{"success": …, "error-codes": […]}`."""
    return body.get("success"), body.get("error-codes") or []


def _read_friendly(status: int, body: Mapping[str, object]) -> tuple[object, object]:
    error = body.get("error")
    return body.get("success"), [error.get("error_code")] if isinstance(error, dict) else []


def _read_cap(status: int, body: Mapping[str, object]) -> tuple[object, object]:
    # The status alone is ambiguous: 403 and 404 may mean our keys, or the client's token.
    return body.get("success", False if "error" in body else None), [body["error"]] if "error" in body else []


def _read_mcaptcha(status: int, body: Mapping[str, object]) -> tuple[object, object]:
    return (body.get("valid"), []) if status == 200 else (False, [f"HTTP {status}"])


def _read_prosopo(status: int, body: Mapping[str, object]) -> tuple[object, object]:
    # `status` in the body is a text in some language.
    return (body.get("verified"), []) if status == 200 else (False, [f"HTTP {status}"])


def _codes(misconfigured: str, rejected: str) -> dict[str, Outcome]:
    """What error codes mean, which are given with spaces between them."""
    return dict.fromkeys(misconfigured.split(), _MISCONFIGURED) | dict.fromkeys(rejected.split(), _REJECTED)


_CODES = _codes(
    "missing-input-secret invalid-input-secret bad-request",
    "missing-input-response invalid-input-response timeout-or-duplicate",
)
"""The error codes that reCAPTCHA introduced."""

_HCAPTCHA_SOURCES = ("https://hcaptcha.com", "https://*.hcaptcha.com", "{widget_origin}")

_RECAPTCHA = Row(
    title="reCAPTCHA",
    api="https://www.google.com",
    path="/recaptcha/api/siteverify",
    widget="https://www.google.com",
    script="/recaptcha/api.js",
    read=_read_success,
    codes=_CODES,
    life=120,
    solved_at=("challenge_ts",),
    hostname=("hostname",),
    csp={
        # In mainland China, www.recaptcha.net loads its script from gstatic.cn.
        "script-src": ("{widget}/recaptcha/", "https://www.gstatic.com/recaptcha/", "https://www.gstatic.cn/recaptcha/"),
        "frame-src": ("{widget}/recaptcha/", "https://recaptcha.google.com/recaptcha/"),
    },
    test_site_keys=frozenset({"6LeIxAcTAAAAAJcZVRqyHh71UMIEGNQ_MXjiZKhI"}),
    test_secrets=frozenset({"6LeIxAcTAAAAAGG-vFI1TnRWxMZNFuojJ4WifJWe"}),
)

ROWS = {
    # https://docs.hcaptcha.com/
    "hcaptcha": Row(
        title="hCaptcha",
        api="https://api.hcaptcha.com",
        path="/siteverify",
        widget="https://js.hcaptcha.com",
        script="/1/api.js",
        fields={"secret": "secret", "solution": "response", "site_key": "sitekey", "address": "remoteip"},
        read=_read_success,
        codes=_codes(
            "missing-input-secret invalid-input-secret sitekey-secret-mismatch not-using-dummy-passcode bad-request "
            "missing-remoteip invalid-remoteip",
            "missing-input-response invalid-input-response expired-input-response already-seen-response "
            "invalid-or-already-seen-response",
        ),
        life=300,  # 120 by default; not confirmed
        solved_at=("challenge_ts",),
        hostname=("hostname",),
        hostname_may_lack=True,  # D-400
        csp=dict.fromkeys(("script-src", "frame-src", "style-src", "connect-src"), _HCAPTCHA_SOURCES),
        test_site_keys=frozenset(
            f"{first}-ffff-ffff-ffff-{last}"
            for first, last in (("10000000", "000000000001"), ("20000000", "000000000002"), ("30000000", "000000000003"))
        ),
        test_secrets=frozenset({"0x0000000000000000000000000000000000000000"}),
    ),
    # https://developers.cloudflare.com/turnstile/
    "turnstile": Row(
        title="Cloudflare Turnstile",
        api="https://challenges.cloudflare.com",
        path="/turnstile/v0/siteverify",
        widget="https://challenges.cloudflare.com",
        script="/turnstile/v0/api.js",
        as_json=True,
        retry_field="idempotency_key",
        read=_read_success,
        codes=_CODES | {"internal-error": _UNAVAILABLE},
        life=300,
        solved_at=("challenge_ts",),
        hostname=("hostname",),
        action=True,
        csp={"script-src": ("{widget_origin}",), "frame-src": ("{widget_origin}",)},
        test_site_keys=frozenset(
            {
                "1x00000000000000000000AA",
                "2x00000000000000000000AB",
                "1x00000000000000000000BB",
                "2x00000000000000000000BB",
                "3x00000000000000000000FF",
            }
        ),
        test_secrets=frozenset(f"{first}x0000000000000000000000000000000AA" for first in "123"),
        shape=lambda solution, site_key: len(solution) <= 2048,
    ),
    # https://developers.google.com/recaptcha/docs/verify
    "recaptchaV2": _RECAPTCHA,
    "recaptchaV3": replace(_RECAPTCHA, kind="automatic", action=True, score=True),
    # https://developer.friendlycaptcha.com/docs/v2/getting-started/verify
    "friendlyCaptcha": Row(
        title="Friendly Captcha",
        api="https://global.frcapi.com",
        path="/api/v2/captcha/siteverify",
        widget="https://cdn.jsdelivr.net",
        script="/npm/@friendlycaptcha/sdk@1.0.2/site.min.js",
        fields={"solution": "response", "site_key": "sitekey"},
        as_json=True,
        key_header="X-API-Key",
        read=_read_friendly,
        codes=_codes(
            "auth_required auth_invalid sitekey_invalid bad_request response_missing",
            "response_invalid response_timeout response_duplicate",
        ),
        life=DAY_SECONDS,  # not documented
        solved_at=("data", "challenge", "timestamp"),
        hostname=("data", "challenge", "origin"),
        hostname_may_lack=True,
        endpoint="{api}",
        # The widget's endpoint has fallbacks with other host names.
        csp={
            "script-src": ("{widget}/npm/@friendlycaptcha/",),
            "frame-src": ("{api_origin}", "https://*.frcapi.com"),
            "connect-src": ("{api_origin}", "https://*.frcapi.com"),
        },
    ),
    # https://trycap.dev/guide/standalone/
    "cap": Row(
        title="Cap",
        path="/{site_key}/siteverify",
        script="/assets/widget.js",
        fields={"secret": "secret", "solution": "response"},
        as_json=True,
        read=_read_cap,
        codes={
            "Missing required parameters": _MISCONFIGURED,
            "Invalid site key or secret": _MISCONFIGURED,
            "Token not found": _REJECTED,
            "Token expired": _REJECTED,
        },
        life=2 * 3600,
        endpoint="{widget}/{site_key}/",
        # Its widget fetches WebAssembly, makes workers from text, and puts inline styles into the page.
        csp={
            "script-src": ("{widget}/assets/", "'wasm-unsafe-eval'"),
            "connect-src": ("{widget_origin}", "https://cdn.jsdelivr.net/npm/@cap.js/"),
            "worker-src": ("blob:",),
            "style-src": ("'unsafe-inline'",),
        },
        wrong_solution="{site_key}:binder-egress:self-check",
        # The tokens of Cap Standalone 3.0.4 and later, which answers any other text as if our keys were wrong.
        shape=lambda solution, site_key: bool(re.fullmatch(f"{re.escape(site_key)}:[^:]+:[^:]+", solution)),
    ),
    # https://mcaptcha.org/docs/
    "mcaptcha": Row(
        title="mCaptcha",
        path="/api/v1/pow/siteverify",
        script="/widget/",  # a page for a frame, not a script
        fields={"secret": "secret", "solution": "token", "site_key": "key"},
        as_json=True,
        read=_read_mcaptcha,
        codes={"HTTP 400": _REJECTED, "HTTP 401": _MISCONFIGURED, "HTTP 404": _MISCONFIGURED},
        life=DAY_SECONDS,  # chosen by the instance
        csp={"frame-src": ("{widget_origin}",)},
    ),
    # https://docs.prosopo.io/en/basics/server-side-verification/
    "prosopo": Row(
        title="Prosopo",
        api="https://api.prosopo.io",
        path="/siteverify",
        widget="https://js.prosopo.io",
        script="/js/procaptcha.bundle.js",
        fields={"secret": "secret", "solution": "token", "address": "ip"},
        as_json=True,
        read=_read_prosopo,
        codes={"HTTP 401": _MISCONFIGURED, "HTTP 403": _MISCONFIGURED},
        life=600,
        csp={
            "script-src": ("{widget_origin}",),
            "connect-src": ("https://*.prosopo.io", "{api_origin}"),
            "img-src": ("https://*.prosopo.io", "data:"),
            "style-src": ("'unsafe-inline'",),
            "worker-src": ("blob:",),
        },
        test_site_keys=frozenset(
            {"5EARALUe4HXQwKo5KanZSGGKqJV4VTaytpezFwv8ZHbZewmh", "5ETtechmZkn3CUVeJX7Z511oiuiu742aHLm91D5ZZw4fqoAG"}
        ),
        # A wrong solution and a wrong secret may both lead to HTTP 400 or 500.
        tells=False,
    ),
}
"""Name in `captcha.providers` → how the provider is asked."""
