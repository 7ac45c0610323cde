"""A local double of the remote captcha providers: their documented siteverify interfaces, and scripts in place of their widgets.

It contains no code of the providers. A test starts one server for all of them, and sets the `behaviour` of an interface:
`right` (a token counts once), `down` (503), `limited` (429), `hanging` (no answer for 20 s), `misconfigured` (as for a wrong
secret), `rejecting` (every token is refused), `accepting` (none is), `rubbish` (200, HTML).

The scripts define the documented names of the real ones. A widget is a frame, or for Cap and Prosopo a part of the page, with the
buttons "I am a person", "Wrong" (a token that is refused), "Expire" and "Break". reCAPTCHA v3 has none: `execute` gives a token.
"""

import json
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

SITE_KEY = "site-key-of-the-double"
SECRET = "secret-of-the-double"

NAMES = ("hcaptcha", "turnstile", "recaptchaV2", "recaptchaV3", "friendlyCaptcha", "cap", "mcaptcha", "prosopo")

SCRIPTS = {
    "hcaptcha": "1/api.js",
    "turnstile": "turnstile/v0/api.js",
    "recaptchaV2": "recaptcha/api.js",
    "recaptchaV3": "recaptcha/api.js",
    "friendlyCaptcha": "npm/@friendlycaptcha/sdk@1.0.2/site.min.js",
    "cap": "assets/widget.js",
    "prosopo": "js/procaptcha.bundle.js",
}
"""The path of each script below the provider's folder: the same as on the real provider's host."""

HERE = Path(__file__).parent


class Double:
    """The doubles of all providers at `url`: `behaviour` of each, `calls` of (provider, fields), `score` of reCAPTCHA v3."""

    def __init__(self) -> None:
        self.url = ""
        self.behaviour = dict.fromkeys(NAMES, "right")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.score = 0.9
        self.stopping = threading.Event()
        self.used_tokens: set[str] = set()
        self.app = Flask(__name__, static_folder=None)
        self._routes()

    def settings(self, *names: str, with_altcha: dict[str, Any] | None = None, **options: dict[str, Any]) -> dict[str, Any]:
        """Settings of a `VerifierProcess` with these providers in order, ALTCHA last if it has options, and options that win."""
        providers = {name: self.options(name) | {"order": order} | options.get(name, {}) for order, name in enumerate(names)}
        if with_altcha is not None:
            providers["altcha"] = {"order": len(names)} | with_altcha
        return {"captcha_providers": providers} | {f"captcha_secret_{name}": SECRET for name in names}

    def options(self, name: str) -> dict[str, Any]:
        """The values below `captcha.providers.<name>`."""
        return {"siteKey": SITE_KEY, "apiUrl": f"{self.url}/{name}", "widgetUrl": f"{self.url}/{name}"}

    def token(self, name: str, right: bool = True, **claims: Any) -> str:
        """A token as a widget returns it; claims are `action`, `host`, `site_key` and `time`, a Unix time in seconds."""
        made = {"provider": name, "right": right, "site_key": SITE_KEY, "id": uuid4().hex, "host": "localhost", "time": time.time()}
        text = urlsafe_b64encode(json.dumps(made | claims).encode()).decode().rstrip("=")
        return f"{SITE_KEY}:id:{text}" if name == "cap" else text

    def _judge(self, name: str, solution: str) -> dict[str, Any] | str:
        """The claims of a token, or the reason of its refusal: `invalid` or `used`."""
        if self.behaviour[name] == "accepting":
            return {"host": "localhost", "time": time.time()}
        try:
            text = solution.rpartition(":")[2] if name == "cap" else solution
            claims = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            wrong = claims["provider"] != name or not claims["right"] or claims["site_key"] != SITE_KEY
        except (ValueError, KeyError, TypeError):
            return "invalid"
        if wrong or self.behaviour[name] == "rejecting":
            return "invalid"
        if claims["id"] in self.used_tokens:
            return "used"
        self.used_tokens.add(claims["id"])
        return claims

    def _routes(self) -> None:
        app = self.app

        @app.after_request
        def _cors(answer: Response) -> Response:
            answer.headers["Access-Control-Allow-Origin"] = "*"
            answer.headers["Access-Control-Allow-Headers"] = "Content-Type"
            return answer

        @app.before_request
        def _behave() -> Response | None:
            name = request.path.split("/")[1]
            if request.method == "OPTIONS":
                return Response(status=204)
            if "siteverify" not in request.path:
                return None
            self.calls.append((name, dict(request.get_json(silent=True) or request.form)))
            match self.behaviour[name]:
                case "down":
                    return Response("Service Unavailable", 503)
                case "limited":
                    return Response("Too Many Requests", 429)
                case "rubbish":
                    return Response("<!doctype html><title>Hello</title>", 200)
                case "hanging":
                    self.stopping.wait(20)
                    return Response(status=504)
            return None

        # hCaptcha, Turnstile and reCAPTCHA: the same structure with different words.
        @app.post("/hcaptcha/siteverify", endpoint="hcaptcha")
        @app.post("/turnstile/turnstile/v0/siteverify", endpoint="turnstile")
        @app.post("/recaptchaV2/recaptcha/api/siteverify", endpoint="recaptchaV2")
        @app.post("/recaptchaV3/recaptcha/api/siteverify", endpoint="recaptchaV3")
        def classic() -> tuple[Response, int]:
            name = request.endpoint or ""
            fields = request.get_json() if request.is_json and name == "turnstile" else request.form
            if self._wrong_secret(name, fields.get("secret")):
                return jsonify({"success": False, "error-codes": ["invalid-input-secret"]}), 200
            claims = self._judge(name, fields.get("response", ""))
            if isinstance(claims, str):
                used = "already-seen-response" if name == "hcaptcha" else "timeout-or-duplicate"
                return jsonify({"success": False, "error-codes": ["invalid-input-response" if claims == "invalid" else used]}), 200
            solved = datetime.fromtimestamp(claims["time"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            answer = {"success": True, "challenge_ts": solved, "hostname": claims["host"]}
            if name in ("turnstile", "recaptchaV3"):
                answer["action"] = claims.get("action", "")
            if name == "recaptchaV3":
                answer["score"] = self.score
            return jsonify(answer), 200

        @app.post("/friendlyCaptcha/api/v2/captcha/siteverify")
        def friendly() -> tuple[Response, int]:
            if self._wrong_secret("friendlyCaptcha", request.headers.get("X-API-Key")):
                return jsonify(success=False, error={"error_code": "auth_invalid", "detail": "The API key is wrong."}), 401
            claims = self._judge("friendlyCaptcha", (request.get_json(silent=True) or request.form).get("response", ""))
            if isinstance(claims, str):
                code = "response_invalid" if claims == "invalid" else "response_duplicate"
                return jsonify(success=False, error={"error_code": code, "detail": "No."}), 200
            solved = datetime.fromtimestamp(claims["time"], UTC).isoformat()
            challenge = {"timestamp": solved, "origin": f"https://{claims['host']}"}
            return jsonify(success=True, data={"event_id": uuid4().hex, "challenge": challenge}), 200

        @app.post("/cap/<site_key>/siteverify")
        def cap(site_key: str) -> tuple[Response, int]:
            body = request.get_json()
            if self._wrong_secret("cap", body.get("secret")) or site_key != SITE_KEY:
                return jsonify(success=False, error="Invalid site key or secret"), 403 if site_key == SITE_KEY else 404
            claims = self._judge("cap", body["response"])
            if isinstance(claims, str):
                return jsonify(success=False, error="Token not found"), 404
            return jsonify(success=True), 200

        @app.post("/cap/<site_key>/challenge")
        def cap_challenge(site_key: str) -> Response:
            return jsonify(challenge={"c": 1, "s": 1, "d": 1}, token=uuid4().hex)

        @app.post("/cap/<site_key>/redeem")
        def cap_redeem(site_key: str) -> Response:
            return jsonify(success=True, token=self.token("cap", right=request.get_json()["right"]))

        @app.post("/mcaptcha/api/v1/pow/siteverify")
        def mcaptcha() -> tuple[Response, int]:
            body = request.get_json()
            if self._wrong_secret("mcaptcha", body.get("secret")):
                return jsonify(error="Wrong password"), 401
            if body.get("key") != SITE_KEY:
                return jsonify(error="Not found"), 404
            return jsonify(valid=not isinstance(self._judge("mcaptcha", body["token"]), str)), 200

        @app.post("/prosopo/siteverify")
        def prosopo() -> tuple[Response, int]:
            body = request.get_json()
            if self._wrong_secret("prosopo", body.get("secret")):
                return jsonify(error={"message": "Invalid secret", "code": 401}), 401
            verified = not isinstance(self._judge("prosopo", body["token"]), str)
            return jsonify(status="ok" if verified else "Benutzer nicht verifiziert", verified=verified), 200

        @app.get("/mcaptcha/widget/", endpoint="frame")
        @app.get("/<name>/recaptcha/frame")  # as the policy for reCAPTCHA requires
        @app.get("/<name>/frame")
        def frame(name: str = "mcaptcha") -> Response:
            page = (HERE / "frame.html").read_text().replace("NAME", name)
            return Response(page, content_type="text/html; charset=utf-8")

        @app.get("/<name>/<path:path>")
        def script(name: str, path: str) -> Response:
            if name not in NAMES or path != SCRIPTS.get(name):
                return Response(status=404)
            text = (HERE / "widgets.js").read_text()
            known = {"NAME": name, "BASE": f"{self.url}/{name}", "SITE_KEY": SITE_KEY}
            start = "".join(f"const {word} = {json.dumps(value)};\n" for word, value in known.items())
            return Response(f"(() => {{\n{start}{text}}})();\n", content_type="text/javascript; charset=utf-8")

    def _wrong_secret(self, name: str, secret: str | None) -> bool:
        return secret != SECRET or self.behaviour[name] == "misconfigured"


@contextmanager
def running(address: str = "127.0.0.1") -> Iterator[Double]:
    """Serve the double on an address of this machine, by default on loopback."""
    double = Double()
    server = make_server(address, 0, double.app, threaded=True)
    double.url = f"http://{address}:{server.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        double.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
