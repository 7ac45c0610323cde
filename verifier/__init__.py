"""binder-egress: captcha-gated network egress for BinderHub user pods.

Two processes come from this package. The *verifier* (`app`, `web`, `api`) checks captcha solutions, issues passes and decides
tiers; it faces the internet and holds no Kubernetes credentials. The *reconciler* (`reconciler`, `cluster`) is the only one that
may patch pods. They meet in Redis (`store`).
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("binder-egress")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0.0.0"
