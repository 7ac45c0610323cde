"""A local double of the remote captcha providers: their documented siteverify interfaces, and scripts in place of their widgets.

It contains no code of the providers. A test starts one server for all of them, and sets how an interface answers from then on:

    with running() as double:
        process = VerifierProcess(redis_server, **double.settings("turnstile", "recaptchaV3"))
        double.behaviour["turnstile"] = "down"

`right` (a token counts once), `down` (503), `limited` (429), `hanging` (no answer for 20 s), `misconfigured` (as for a wrong
secret), `rejecting` (every token is refused), `accepting` (none is), `rubbish` (200, HTML).

The scripts define the documented names of the real ones. A widget is a frame, or for Cap and Prosopo a part of the page, with the
buttons "I am a person", "Wrong" (a token that is refused), "Expire" and "Break". reCAPTCHA v3 has none: `execute` gives a token.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.serving import make_server

from .app import SECRET, SITE_KEY, Double

__all__ = ["SECRET", "SITE_KEY", "Double", "running"]


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
