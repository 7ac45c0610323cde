# binder-egress: closes ping in every user pod, by a sysctl that no node has to allow.
def _binder_egress_close_ping(c, get_config):
    import inspect

    if not get_config("custom.binderEgress.closePing"):
        return
    name = "net.ipv4.ping_group_range"  # for IPv6 too

    def closed(context):
        others = [each for each in context.get("sysctls") or [] if each["name"] != name]
        return {**context, "sysctls": [*others, {"name": name, "value": "1 0"}]}  # from group 1 to group 0: nobody

    def configured(trait):
        # A value of BinderSpawner hides the value of KubeSpawner.
        section = c.BinderSpawner if trait in c.BinderSpawner else c.KubeSpawner
        value = getattr(section, trait)
        # Traitlets' placeholder if nothing was configured, or if a snippet added to it.
        return section, value.get_value({}) if hasattr(value, "get_value") else value

    section, context = configured("pod_security_context")

    async def made(spawner):
        result = context(spawner)
        return closed((await result if inspect.isawaitable(result) else result) or {})

    section.pod_security_context = made if callable(context) else closed(context or {})
    # A context in here replaces the whole context above.
    section, config = configured("extra_pod_config")
    contexts = {"securityContext", "security_context"} & set(config or {})
    if contexts:
        section.extra_pod_config = {**config, **{key: closed(config[key]) for key in contexts}}


try:
    _binder_egress_close_ping(c, get_config)  # type: ignore[name-defined]
except Exception as error:
    # The hub must start. The reconciler counts pods that may ping (binder_egress_user_pods_with_ping_total).
    print(f"binder-egress: ping stays open: {type(error).__name__}: {error}")
del _binder_egress_close_ping
