"""binder-egress: captcha-gated network egress for BinderHub user pods.

All processes come from this package. The *verifier* (`web`) checks captcha solutions, issues passes and decides tiers; it faces the
internet and holds no Kubernetes credentials. The *reconciler* (`reconciler`) is the only one that may patch pods. They meet in
Redis (`store`). Optional processes are the egress *proxy*, the *agent*, and the *receiver* of detectors' reports
(`web.receiver`).
"""

__version__: str
"""The version of the installed package; `0.0.0` in a checkout that is not installed."""


def __getattr__(name: str) -> str:
    """Read `__version__` on first use.

    Reading it takes as long as importing everything that the start guard needs, and the start guard runs in every user pod (D-382).

    Raises:
        AttributeError: another name was asked for.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("binder-egress")
    except PackageNotFoundError:
        return "0.0.0"
