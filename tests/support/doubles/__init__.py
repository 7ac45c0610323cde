"""A local double of the remote captcha providers: their documented siteverify interfaces, and scripts in place of their widgets.

It contains no code of the providers. A test starts one server for all of them:

    from tests.support.doubles import running

    with running() as double:
        process = VerifierProcess(redis_server, **double.settings("turnstile", "recaptchaV3"))

`double.settings(*names, **options)` gives the settings of a `VerifierProcess` for these providers, in this order, with the tier
`verified` unless `options` (name → options that win) say otherwise; `with_altcha=MODEST["altcha"]` puts proof of work last.
`double.url` is the double's address, one origin for everything, so the CSP of a page that shows a widget names it.

Names: hcaptcha, turnstile, recaptchaV2, recaptchaV3, friendlyCaptcha, cap, mcaptcha, prosopo.

A test sets how the interface of each provider answers from the next request on:

    double.behaviour["turnstile"] = "down"

`right` (the default; a token counts once), `down` (503), `limited` (429), `hanging` (no answer for 20 s), `misconfigured` (as for a
wrong secret), `rejecting` (every token is refused), `accepting` (none is), `rubbish` (200, HTML). `double.calls` is a list of
(provider, fields) of all calls.

The scripts define the documented names of the real ones: `hcaptcha.render/reset/remove`,
`turnstile.render/reset/remove`, `grecaptcha.render/reset/execute/ready`, `frcaptcha.createWidget(…)` with the events
`frc:widget.complete/.error/.expire`, `procaptcha.render`, the element `<cap-widget data-cap-api-endpoint>` with the events `solve`
and `error`. mCaptcha has no script, but a frame `widget/?sitekey=…` that posts `{token}` to its parent. A widget is a frame of the
double (title "double of <provider>"), as are most real ones; Cap's and Prosopo's are in the page. It has these buttons:

    "I am a person"   calls back with a token that counts
    "Wrong"           calls back with a token that the interface refuses
    "Expire"          calls the expired callback
    "Break"           calls the error callback

reCAPTCHA v3 has no widget: `execute` resolves with a token at once, with the score `double.score` (0.9).
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
