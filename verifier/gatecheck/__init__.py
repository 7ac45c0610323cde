"""Is the gate shut? The other NetworkPolicies (`netpol`), packets (`probe`), what both of them mean (`check`), and `doctor`."""
