# binder-egress: adds an init container to every user pod. It waits for the pod's policies, and for the egress proxy.
# It also says in the hub's log if policies do not select user pods.
def _binder_egress_user_labels(c, get_config):
    def configured(trait, default):
        # A value of BinderSpawner hides the value of KubeSpawner.
        section = c.BinderSpawner if trait in c.BinderSpawner else c.KubeSpawner
        value = section.get(trait, default)
        return value.get_value(default) if hasattr(value, "get_value") else value

    component = configured("component_label", "singleuser-server")
    usual = {"app": "jupyterhub", "heritage": "jupyterhub", "app.kubernetes.io/name": "jupyterhub"}
    usual["app.kubernetes.io/managed-by"] = "kubespawner"
    # In KubeSpawner's order: the later ones win.
    labels = {**configured("extra_labels", {}), **configured("common_labels", usual)}
    labels.update({"component": component, "app.kubernetes.io/component": component})
    for label, value in (get_config("custom.binderEgress.userPodLabels") or {}).items():
        if labels.get(label) != value:
            print(f"binder-egress: user pods are open: their {label} is {labels.get(label)}, policies select {value}")


def _binder_egress_start_guard(c, get_config):
    import copy

    guard = get_config("custom.binderEgress.startGuard") or {}
    if not guard.get("enabled"):
        return
    if not guard["image"]:
        raise ValueError("custom.binderEgress.startGuard.image is empty")

    def setting(name, key):
        return {"configMapKeyRef": {"name": name, "key": key, "optional": True}}

    container = {
        "name": "binder-egress-start-guard",
        # D-011
        "image": guard["image"],
        "command": ["binder-egress", "start-guard"],
        "env": [
            # The kubelet reads these when the pod starts, so the chart can change them without restarting the hub.
            {"name": "BINDER_EGRESS_ISOLATED", "valueFrom": setting(guard["configMap"], "isolated")},
            {"name": "BINDER_EGRESS_START_GUARD_PROXY", "valueFrom": setting(guard["proxyConfigMap"], "address")},
            {"name": "BINDER_EGRESS_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "BINDER_EGRESS_START_GUARD_TIMEOUT", "value": str(guard["timeout"])},
            {"name": "BINDER_EGRESS_START_GUARD_TARGETS", "value": guard["targets"]},
        ],
        "resources": guard["resources"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsGroup": 10001,
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if guard["pullPolicy"]:
        container["imagePullPolicy"] = guard["pullPolicy"]

    def section(trait, *others):
        # A value of BinderSpawner hides the value of KubeSpawner.
        return next((each for each in (c.BinderSpawner, c.KubeSpawner, *others) if trait in each), c.KubeSpawner)

    # D-013
    def add(trait, key, entry):
        configured = getattr(section(trait), trait)
        if isinstance(configured, dict):
            configured[key] = entry  # KubeSpawner sorts by key
        else:
            # A list, or traitlets' placeholder if nothing was configured.
            configured.append(entry)

    def add_lab():
        # The guard puts the JupyterLab extension into a volume. The user's container mounts it where JupyterLab looks
        # (D-301).
        where = "/usr/local/share/jupyter/labextensions/binder-egress"
        mounts = section("volume_mounts").volume_mounts
        # A copy of traitlets' placeholder, because a placeholder keeps the first value that it returns.
        mounts = copy.deepcopy(mounts).get_value([]) if hasattr(mounts, "get_value") else mounts
        for mount in mounts.values() if isinstance(mounts, dict) else mounts:
            path = mount.get("mountPath") or mount.get("mount_path") or ""
            # In the operator's own volume that folder would have to be made, which fails if it is read-only.
            if f"{where}/".startswith(path.rstrip("/") + "/"):
                raise ValueError(f"{path} is mounted already")
        hooked = section("pre_spawn_hook", c.Spawner)
        before = hooked.pre_spawn_hook if "pre_spawn_hook" in hooked else None

        def tell(spawner):
            # The variables from which the server's address is made. BinderHub names its own host with each launch.
            told = {
                "BINDER_LAUNCH_HOST": spawner.user_options.get("binder_launch_host") or "",
                "JUPYTERHUB_USER": spawner.user.name,
                "JUPYTERHUB_SERVER_NAME": spawner.name or "",
                "BINDER_EGRESS_URL": spawner.environment["BINDER_EGRESS_URL"],
            }
            containers = spawner.init_containers
            for each in containers.values() if isinstance(containers, dict) else containers:
                if each["name"] == container["name"]:
                    kept = [entry for entry in each["env"] if entry["name"] not in told]
                    # KubeSpawner treats braces as placeholders of its own.
                    told = {name: str(value).replace("{", "{{").replace("}", "}}") for name, value in told.items()}
                    each["env"] = [*kept, *({"name": name, "value": value} for name, value in told.items())]

        def hook(spawner):
            try:
                tell(spawner)
            except Exception as error:
                spawner.log.warning("binder-egress: no JupyterLab extension: %s: %s", type(error).__name__, error)
            return before(spawner) if callable(before) else None

        add("volumes", "zz-binder-egress-lab", {"name": "binder-egress-lab", "emptyDir": {}})
        mount = {"name": "binder-egress-lab", "mountPath": where, "readOnly": True}
        add("volume_mounts", "zz-binder-egress-lab", mount)
        container["volumeMounts"] = [{"name": "binder-egress-lab", "mountPath": "/binder-egress-lab"}]
        container["env"].append({"name": "BINDER_EGRESS_LAB", "value": "/binder-egress-lab"})
        hooked.pre_spawn_hook = hook

    if guard.get("jupyterlab"):
        try:
            add_lab()
        except Exception as error:
            # The guard matters more than the extension.
            print(f"binder-egress: no JupyterLab extension: {type(error).__name__}: {error}")
    add("init_containers", "zz-binder-egress-start-guard", container)


try:
    _binder_egress_user_labels(c, get_config)  # type: ignore[name-defined]
except Exception as error:
    print(f"binder-egress: labels of user pods not compared: {type(error).__name__}: {error}")
try:
    _binder_egress_start_guard(c, get_config)  # type: ignore[name-defined]
except Exception as error:
    # The hub must start. The reconciler counts pods without a guard (binder_egress_start_guards_total).
    print(f"binder-egress: no start guard: {type(error).__name__}: {error}")
del _binder_egress_start_guard, _binder_egress_user_labels
