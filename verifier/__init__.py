"""binder-egress: captcha-gated network egress for BinderHub user pods.

Two processes come from this package. The *verifier* (`app`, `web`, `api`) checks captcha solutions, issues passes and decides
tiers; it faces the internet and holds no Kubernetes credentials. The *reconciler* (`reconciler`, `cluster`) is the only one that
may patch pods. They meet in Redis (`store`).
"""

__version__: str
"""The version of the installed package; `0.0.0` in a checkout that is not installed."""


def __getattr__(name: str) -> str:
    """Read `__version__` when somebody asks for it.

    What reads it takes as long to import as all that the start guard needs, and that runs in every user pod (D-382).

    Raises:
        AttributeError: it was another name.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("binder-egress")
    except PackageNotFoundError:
        return "0.0.0"
