"""Is the gate shut? The other NetworkPolicies (`netpol`), packets (`probe`), the reconciler's check (`watch`), and `doctor`."""
