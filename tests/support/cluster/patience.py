"""How long the cluster tests wait, in seconds. This is the only place that says so.

Limits end a wait for something that should happen: a wait ends as soon as it has happened. They are generous, because a CI
machine has two cores and runs several clusters beside other tests. What the product promises in seconds is asserted in the tests
themselves.

Pauses are for what must not happen: nothing tells when it has not.
"""

# -- limits

ANSWER_SECONDS = 30
"""One HTTP answer of the verifier, or of any other server that answers at once."""

HUB_ANSWER_SECONDS = 60
"""One HTTP answer of JupyterHub, which writes to a database and waits for its proxy before it answers."""

HUB_SECONDS = 180
"""All attempts at one question to JupyterHub or BinderHub. Right after an upgrade the nodes may not know the new pods yet."""

LAUNCH_SECONDS = 300
"""A launch, from its request to its last event."""

TIER_SECONDS = 240
"""Until a pod has the tier that was decided, and until policies for it are in force."""

POD_SECONDS = 240
"""Until a pod runs, is ready, is done, or is gone."""

ROLLOUT_SECONDS = 300
"""A `helm upgrade --wait`, `helm test` or `kubectl rollout status`."""

RECONCILER_SECONDS = 180
"""What the reconciler looks at once a minute (policies, the canary), or publishes after a restart."""

CANARY_SECONDS = 400
"""Until the canary has tried its targets and its metric says so: it starts, tries them every 30 s, and is read once a minute."""

SECRET_SECONDS = 240
"""Until the kubelet has brought a changed Secret into a pod: it looks at a pod once a minute."""

PAGE_SECONDS = 180
"""What a browser waits for on a page: an element, an address, the end of a launch."""

COMMAND_SECONDS = 400
"""A command: kubectl, helm, curl, a client, what a document says to type."""

ALERT_SECONDS = 300
"""Until Prometheus has seen a fault and its alert fires."""

GUARD_SECONDS = 30
"""For `custom.binderEgress.startGuard.timeout` in place of the chart's 10 s: after it a pod starts although it is not isolated. Not
more, for some tests bring about what a start guard waits for in vain."""

STALL_SECONDS = 8
"""A connection over which nothing comes back for so long was cut. A busy machine has been seen to lose 2 s."""

# -- pauses, for what must not happen

RECONCILED_SECONDS = 2
"""The reconciler acts on an event within milliseconds; after this it would have acted."""

STALLED_SECONDS = STALL_SECONDS + 1
"""A connection that is cut stalls, and `packets.stream` has ended after this."""
