"""What the cluster tests, ci/demo and ci/bench do in a cluster."""
