"""The verifier's two HTTP interfaces: one for strangers, and one for the cluster."""
