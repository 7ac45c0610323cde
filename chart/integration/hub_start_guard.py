# binder-egress: adds an init container to every user pod. It waits for the pod's policies, and for the egress proxy.
def _binder_egress_start_guard(c, get_config):
    guard = get_config("custom.binderEgress.startGuard") or {}
    if not guard.get("enabled"):
        return

    def setting(name, key):
        return {"configMapKeyRef": {"name": name, "key": key, "optional": True}}

    container = {
        "name": "binder-egress-start-guard",
        "image": guard["image"],
        "command": ["python3", "-I", "-m", "verifier.pods.start_guard"],
        "env": [
            # The kubelet reads these when the pod starts, so the chart can change them without a restart of the hub.
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
    # A value of BinderSpawner hides the value of KubeSpawner.
    spawner = c.BinderSpawner if "init_containers" in c.BinderSpawner else c.KubeSpawner
    configured = spawner.init_containers
    if isinstance(configured, dict):
        configured["zz-binder-egress-start-guard"] = container  # KubeSpawner sorts by key
    else:
        # A list, or traitlets' placeholder where nothing was configured.
        configured.append(container)


try:
    _binder_egress_start_guard(c, get_config)  # type: ignore[name-defined]
except Exception as error:
    # The hub must start. The reconciler counts pods without a guard (binder_egress_start_guards_total).
    print(f"binder-egress: no start guard: {type(error).__name__}: {error}")
del _binder_egress_start_guard
