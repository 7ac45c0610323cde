"""How long the cluster tests wait, in seconds. A number that only one file of tests needs is in that file.

Limits end a wait for something that should happen, and are generous, because a CI machine is busy. Pauses are for things that
must not happen, because no event shows that they have not.
"""

# -- limits

ANSWER_SECONDS = 30
"""One HTTP answer of the verifier, or of any other quick server."""

HUB_ANSWER_SECONDS = 60
"""One HTTP answer of JupyterHub, which writes to a database and waits for its proxy before it answers."""

HUB_SECONDS = 180
"""All attempts at one request to JupyterHub or BinderHub. Right after an upgrade, the nodes may not know the new pods yet."""

LAUNCH_SECONDS = 300
"""A launch, from its request to its last event."""

TIER_SECONDS = 240
"""Until a pod has the tier that was decided, and until policies for it are in force."""

LABEL_SECONDS = 10
"""Until a pod has the tier that its launch brings. A server that has none by then is unlocked."""

POD_SECONDS = 240
"""Until a pod runs, is ready, is done, or is gone."""

ROLLOUT_SECONDS = 300
"""A `helm upgrade --wait`, `helm test` or `kubectl rollout status`."""

RECONCILER_SECONDS = 180
"""Things that the reconciler reads every ten seconds (policies, the canary), or publishes after a restart."""

CANARY_SECONDS = 400
"""Until the canary has tried its targets and its metric says so: it starts, tries them every 15 s, and is read every 10 s."""

SECRET_SECONDS = 240
"""Until the kubelet has updated a changed Secret in a pod: it syncs a pod once a minute."""

PAGE_SECONDS = LAUNCH_SECONDS
"""Until a browser finds something on a page: an element, an address, the end of a launch."""

COMMAND_SECONDS = 400
"""A command: kubectl, helm, curl, a client, a command of the documentation."""

ALERT_SECONDS = 600
"""Until Prometheus has seen a fault and its alert fires. The canary repeats a lost result after forty rounds (D-375), which take
four minutes here and more on a busy machine."""

GUARD_SECONDS = 30
"""For `custom.binderEgress.startGuard.timeout`, instead of the chart's 10 s: after this time a pod starts although it is not
isolated. It is not longer, because in some tests a start guard waits in vain."""

STALL_SECONDS = 8
"""A connection over which nothing comes back for this long was cut. Busy machines have been seen to pause for 2 s."""

# -- pauses, for things that must not happen

RECONCILED_SECONDS = 2
"""The reconciler acts on an event within milliseconds; after this it would have acted."""

STALLED_SECONDS = STALL_SECONDS + 1
"""A connection that is cut stalls, and `packets.stream` has ended after this."""
