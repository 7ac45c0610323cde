"""JupyterHub's configuration, before and after the snippets that add the start guard and close ping."""

import logging
import textwrap
from types import SimpleNamespace
from typing import Any

from traitlets import Any as AnyTrait
from traitlets import Dict, List, Unicode, Union
from traitlets.config import Config, Configurable

from tests.support.charts import VALUES as VALUES_OF_CHART

INTEGRATION = VALUES_OF_CHART["integration"]["binderhub"]["jupyterhub"]
SNIPPET = INTEGRATION["hub"]["extraConfig"]["zz-binder-egress-start-guard"]
VALUES = {**INTEGRATION["custom"]["binderEgress"]["startGuard"], "image": "verifier:1"}
"""The guard's values, `custom.binderEgress.startGuard`."""


class Spawner(Configurable):
    """JupyterHub's traits."""

    environment = Dict(config=True)
    pre_spawn_hook = AnyTrait(config=True)


class KubeSpawner(Spawner):
    """KubeSpawner's traits, as version 7.1 has them."""

    init_containers = Union([List(), Dict()], config=True)
    volumes = Union([List(), Dict()], config=True)
    volume_mounts = Union([List(), Dict()], config=True)
    pod_security_context = Union([Dict(), AnyTrait()], config=True)
    extra_pod_config = Dict(config=True)
    component_label = Unicode("singleuser-server", config=True)
    common_labels = Dict(config=True)
    extra_labels = Dict(config=True)


class BinderSpawner(KubeSpawner):
    """BinderHub's subclass, with the values of a launch."""

    log = logging.getLogger("spawner")
    name = ""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.user = SimpleNamespace(name="alice-{0}")
        self.user_options = {"binder_launch_host": "https://binder.example.org/"}


def made_spawner(config: Config | None, guard: dict[str, Any]) -> BinderSpawner:
    """Run the start guard's snippet as the hub does, with its earlier configuration and the guard's values. Returns a spawner."""
    return spawner_after(SNIPPET, config, "startGuard", guard)


def spawner_after(snippet: str, config: Config | None, name: str, value: object) -> BinderSpawner:
    """Run a snippet as the hub does, with its earlier configuration and a value of `custom.binderEgress`. Returns a spawner."""
    c = config or Config()
    namespace = {"c": c, "get_config": lambda path, default=None: value if path == f"custom.binderEgress.{name}" else default}
    exec(textwrap.dedent(snippet), namespace)
    assert not [name for name in namespace if name.startswith("_binder_egress")]
    return BinderSpawner(config=c)
