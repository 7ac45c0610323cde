"""What `egress plan` sees before the installation and `egress doctor` after it, in the same words (D-467)."""

FLOW_KILLER = (
    "cryptnono's flow killer ends every process of a node that connects to many addresses, and the egress proxy is one: run one or "
    "the other (docs/proxy.md)"
)

CRYPTNONO, FLOW_KILLER_CONTAINER = "app.kubernetes.io/name=cryptnono", "flowkill"
"""The label of cryptnono's pods, and a word in the container that is the flow killer."""
