"""JupyterHub as JupyterHub's and BinderHub's charts configure it, as far as pods, labels and launches go."""

import asyncio
import inspect
import os
import sys

import yaml
from jupyterhub.utils import exponential_backoff
from kubespawner import KubeSpawner
from tornado import web
from traitlets import Bool, Unicode

c = get_config()  # noqa: F821

# Between two looks at a pod that starts, JupyterHub waits up to five seconds, so that a server is found a second or two after it is
# ready. Here it looks several times a second.
exponential_backoff.__defaults__ = tuple(
    0.3 if parameter.name == "max_wait" else parameter.default
    for parameter in inspect.signature(exponential_backoff).parameters.values()
    if parameter.default is not parameter.empty
)

with open("/etc/jupyterhub/values.yaml") as file:
    values = yaml.safe_load(file)
singleuser, hub = values["singleuser"], values["hub"]

c.JupyterHub.hub_bind_url = "http://:8081"
c.JupyterHub.hub_connect_url = "http://hub:8081"
c.JupyterHub.db_url = "sqlite:////srv/jupyterhub/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = "/srv/jupyterhub/cookie_secret"
# User pods outlive a restart of the hub.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
c.ConfigurableHTTPProxy.api_url = "http://proxy-api:8001"
c.ConfigurableHTTPProxy.should_start = False
c.JupyterHub.services = [{"name": "binder", "api_token": os.environ["BINDER_TOKEN"], "display": False, **hub["services"]["binder"]}]
c.JupyterHub.load_roles = [{"name": name, **role} for name, role in sorted(hub["loadRoles"].items())]

release = os.environ["HELM_RELEASE_NAME"]
c.KubeSpawner.namespace = os.environ["POD_NAMESPACE"]
c.KubeSpawner.common_labels = {
    "app": "jupyterhub",
    "app.kubernetes.io/name": "jupyterhub",
    "release": release,
    "app.kubernetes.io/instance": release,
    "app.kubernetes.io/managed-by": "kubespawner",
}
for trait, key in {
    "allow_privilege_escalation": "allowPrivilegeEscalation",
    "environment": "extraEnv",
    "extra_labels": "extraLabels",
    "extra_pod_config": "extraPodConfig",
    "fs_gid": "fsGid",
    "init_containers": "initContainers",
    "start_timeout": "startTimeout",
    "uid": "uid",
}.items():
    if singleuser.get(key) is not None:
        c.KubeSpawner[trait] = singleuser[key]
# Each file is mounted separately, so that the image's files beside it stay.
if singleuser["extraFiles"]:
    c.KubeSpawner.volumes = [{"name": "files", "secret": {"secretName": "singleuser"}}]
    c.KubeSpawner.volume_mounts = [
        {"name": "files", "mountPath": file["mountPath"], "subPath": key} for key, file in singleuser["extraFiles"].items()
    ]
# The images are already on the node, and there is no registry to pull them from.
c.KubeSpawner.image_pull_policy = "IfNotPresent"
c.Spawner.cmd = singleuser["cmd"]
# Until a server that was started answers. With the default of 30 s, servers on a busy machine fail, and BinderHub starts others.
c.Spawner.http_timeout = singleuser["startTimeout"]
# For a request to the API server, which KubeSpawner gives 3 s, and for all attempts at it, by default 30 s.
c.KubeSpawner.k8s_api_request_timeout = 15
c.KubeSpawner.k8s_api_request_retry_timeout = 120
# How soon the hub sees that a pod is gone. The default of 30 s would only make tests wait.
c.Spawner.poll_interval = 5

for section, settings in hub["config"].items():
    c[section].update(settings)


class BinderSpawner(KubeSpawner):
    """Image and token come with the launch. The user's server requires that token and knows nothing about the hub.

    With `auth_enabled` it is JupyterHub's own server, which asks the hub about each visitor.
    """

    auth_enabled = Bool(False, config=True)
    cors_allow_origin = Unicode("", config=True, help="Whose pages may talk to the server; `*`: all.")
    failed_once = set()  # noqa: RUF012

    def get_args(self):
        """The settings of a plain Jupyter server behind the hub's proxy: its address and its token. probe only takes a port."""
        if self.auth_enabled:
            return super().get_args()
        if self.cmd[0] == "probe":
            return [f":{self.port}"]
        origin = [f"--ServerApp.allow_origin={self.cors_allow_origin}"] if self.cors_allow_origin else []
        return [
            *origin,
            # IPv6 too, so that tests can show that nobody reaches the server there.
            "--ip=*",
            f"--port={self.port}",
            f"--ServerApp.base_url={self.server.base_url}",
            f"--ServerApp.token={self.user_options['token']}",
            "--ServerApp.trust_xheaders=True",
            *self.args,
        ]

    def start(self):
        """Start the pod with the image that was built."""
        for option in ("token", "image"):
            if option not in self.user_options and not self.auth_enabled:
                raise web.HTTPError(400, f"{option} required")
        self.image = self.user_options.get("image", self.image)
        repository = self.user_options.get("repo_url", "")
        if "/flaky/" in repository and repository not in self.failed_once:
            self.failed_once.add(repository)
            return self.fail()
        return super().start()

    async def fail(self):
        """Fail as a pod does, after the hub said that it starts. BinderHub then launches again for another user name."""
        await asyncio.sleep(1)
        raise web.HTTPError(500, "The first server of a repository of the owner `flaky` does not start")

    def get_env(self):
        """The server's variables about its launch, from BinderHub."""
        env = super().get_env()
        if "repo_url" in self.user_options:
            env["BINDER_REPO_URL"] = self.user_options["repo_url"]
        for key in (
            "binder_ref_url",
            "binder_launch_host",
            "binder_persistent_request",
            "binder_request",
            "binder_client_ip",
        ):
            if key in self.user_options:
                env[key.upper()] = self.user_options[key]
        return env


c.JupyterHub.spawner_class = BinderSpawner


def get_config(path, default=None):
    """Lets extraConfig read values: JupyterHub's chart has the same function."""
    found = values
    for part in path.split("."):
        if part not in (found or {}):
            return default
        found = found[part]
    return found


for key, snippet in sorted((hub.get("extraConfig") or {}).items()):
    print(f"Loading extra config: {key}", file=sys.stderr)
    exec(snippet)
