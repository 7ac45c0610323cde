"""The verifier's two HTTP interfaces: what strangers reach, and what the cluster calls."""
