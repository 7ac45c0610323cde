"""The one list of what `egress plan` looks at before the installation, and `egress doctor` after it (D-488)."""

from dataclasses import dataclass

PLAN, DOCTOR = "egress plan", "egress doctor"

FLOW_KILLER_CONTAINER, CRYPTNONO = "flowkill", "app.kubernetes.io/name=cryptnono"
"""A word in the container that is cryptnono's flow killer, and the label of its pods."""

ADMINISTRATOR = "Ask who runs the cluster"
LABELS_AT_ONCE = (
    "in the values of its chart, set identityChangeGracePeriod: 0s and extraConfig.identity-max-jitter: 0s, and restart its agents"
)
CLOCKS = "Check the time synchronisation of the nodes"


@dataclass(frozen=True)
class Check:
    """One entry of the list.

    Attributes:
        id: its name, in the output of both commands.
        sentence: why anybody looks.
        do: what to do if it is not in order or cannot be seen, unless a finding says something of its own.
        by: the commands that carry it out.
    """

    id: str
    sentence: str
    do: str
    by: tuple[str, ...]

    @property
    def advice(self) -> str:
        """Why it matters, and what to do."""
        return f"{self.sentence}. {self.do}"


_LIST = {
    (PLAN,): (
        ("layout", "Each layout has files and labels of its own", "See `helm list`, and check --namespace"),
        ("BinderHub's version", "`helm upgrade` needs it", "See `helm list`, and check --namespace"),
        ("maps", "Helm merges maps: of a list or a text, only the last one stays", "See the values of BinderHub"),
        ("sign-in", "Where people sign in, servers need the hub and DNS", "See config.BinderHub.auth_enabled"),
        ("base URL", "The verifier's path is below BinderHub's", "Set ingress.path to config.BinderHub.base_url and egress/"),
        ("user proxy", "The wiring replaces proxies in user servers' environment", "See jupyterhub.singleuser.extraEnv"),
        ("ports", "A tier without a list of ports opens all", "See networkPolicy.egress.tcpPorts"),
        ("network plugin", "Nothing else enforces policies", f"{ADMINISTRATOR}; only packets tell (`helm test`)"),
        ("IP families", "Tiers open IPv6 too where pods have it", ADMINISTRATOR),
        ("DNS", "Policies open DNS to the pods, and the addresses, that `dns` names",
         "See /etc/resolv.conf in a pod, and name that server in dns.cidrs, or its pods in the other values of dns"),
        ("API server", "Policies open its ports to the reconciler",
         "Run `kubectl get endpoints kubernetes --namespace default`, and set reconciler.networkPolicy.apiServer.ports"),
        ("ingress", "Visitors' browsers reach the verifier on BinderHub's host", "See `kubectl get ingress,httproute`"),
        ("Pod Security", "Its level may refuse the agent", ADMINISTRATOR),
        ("user nodes", "A node without a canary proves nothing, and one without an agent is not looked at",
         "Name the taints of your user nodes in gatecheck.tolerations and agent.tolerations"),
        ("quotas", "Our pods count towards quotas", "Leave room for them: `kubectl describe resourcequota`"),
        ("pre-puller", "Without our image, the first server of a node waits for it", "See jupyterhub.prePuller"),
        ("minesweeper", "It deletes the canary, which runs forever", "Its selector must leave out binder-egress/gatecheck"),
        ("tc-init", "The cap of tc-init ends at the egress proxy", "See jupyterhub.singleuser.initContainers"),
        ("Prometheus", "Its operator takes our alerts", ADMINISTRATOR),
        ("architectures", "No user pod starts on a node that has no image", "Build the image for it too"),
    ),
    (PLAN, DOCTOR): (
        ("provider", "Those that answer and accept our keys are offered", "Check captcha.providers (docs/captcha-providers.md)"),
        ("user labels", "Policies select user pods by labels, and leave others open",
         "Name labels that every user pod has in userPods.labels"),
        ("bypass", "Policies add up: one that opens something for user pods opens the gate",
         "`egress doctor` names the value to change, and `helm test` tells, after the gate is shut"),
        ("other policies", "Policies of other kinds may open the gate, and are not judged",
         "Only packets tell: run `helm test` after the gate is shut"),
        ("labels", "A tier opens, and a block closes, as late as labels act, except in the egress proxy",
         f"With Cilium: {LABELS_AT_ONCE}. docs/gatecheck.md says more"),
        ("identities", "Cilium has 65,280 identities, one for each set of labels, and when they are used up no pod starts",
         "In the values of Cilium's chart, add !hub.jupyter.org/username and !hub.jupyter.org/servername to labels, with a space "
         "between, and restart its agents (docs/scale.md)"),
        ("public port", "Whoever reaches the verifier directly chooses a client address",
         "Name your ingress controller in verifier.networkPolicy.publicFrom, or the networks of your proxies in trustedProxies"),
        ("ping", "Policies do not stop ping", "docs/link-local.md closes it"),
        ("flow killer",
         "cryptnono's flow killer ends every process of a node that connects to many addresses, and the egress proxy is one",
         "Run one or the other (docs/proxy.md)"),
    ),
    (DOCTOR,): (
        ("mode", "Only the mode captcha enforces", "Set mode: captcha when you have seen enough"),
        ("secrets", "New ones end all passes, and cut BinderHub off until it restarts",
         "Set secret.existingSecret, and secret.requireExisting"),
        ("admission policies", "These policies keep others from changing our labels",
         "Name your Kubernetes version (`helm template --kube-version`), or switch them off in admissionPolicies"),
        ("Redis", "Without Redis nobody gets egress, and launches continue", "Check the pod of Redis, or externalRedis"),
        ("epoch", "Passes from before the epoch are refused", "Check the pods of the verifier and the reconciler"),
        ("blocks", "Blocks of repositories and networks, and revoked API keys, outlive Redis",
         "See the reconciler's log: it needs `get` and `patch` for that ConfigMap"),
        ("users of Redis", "With one password, a verifier that is taken over can lift blocks and have pods stopped",
         "With the chart's Redis, add redis-verifier-password and redis-reconciler-password to secret.existingSecret; with "
         "externalRedis they always share one"),
        ("clock of Redis", "Passes are judged by this clock", CLOCKS),
        ("clock of the API server", "The age of a pod is judged by this clock", CLOCKS),
        ("clock of the verifier", "Passes that seem to be from the future are refused", CLOCKS),
        ("reconciler", "Without the reconciler no decision reaches a pod", "Read its log; it needs the API server and Redis"),
        ("verifier", "Without a verifier nobody can solve a captcha", "Check its pods"),
        ("keys", "The last one signs", "Remove the older ones after a rotation (docs/maintenance.md)"),
        ("API keys", "Courses and services use them", "Remove them from apiKeys.keys"),
        ("wiring", "BinderHub announces launches", "If there were some, its values lack `integration.binderhub` (see NOTES)"),
        ("launch records", "A server that was not announced has no tier, and can be unlocked",
         "The verifier or Redis was away for minutes. Otherwise look for `binder-egress` in BinderHub's log"),
        ("access", "A tier may come with the launch, or later", "See docs/operating.md"),
        ("start guard", "A pod waits until its policies act", "docs/start-guard.md explains each outcome"),
        ("starts", "No server starts whose pod Kubernetes cannot start",
         "See custom.binderEgress in JupyterHub's values: startGuard.image, startGuard.resources, closePing"),
        ("pods of the egress proxy", "Programs need the proxy, in pods with a tier too", "Look at its pods"),
        ("pod of the receiver", "Without a receiver, reports of detectors and agents are lost", "Look at its pods"),
        ("policies", "Our policies shut the gate", "`helm upgrade` restores them from the values"),
        ("nodes", "New servers there may have egress that nobody granted",
         "See the node's network plugin and the pod of its canary (docs/gatecheck.md)"),
        ("canary", "The canary's packets show that the gate is shut", "docs/gatecheck.md says what to do"),
        ("egress proxy", "It serves pods whose own address it sees", "Look at its pods; docs/proxy-reference.md has a table"),
    ),
}  # fmt: skip
"""By the commands that carry them out: id, sentence, what to do."""

CHECKS = {id: Check(id, sentence, do, by) for by, rows in _LIST.items() for id, sentence, do in rows}
"""The list, by id. A check of both commands has the same id, sentence and advice in both."""
