"""Is the gate shut? Other NetworkPolicies (`netpol`), packets (`probe`), what both mean (`check`, `helm_test`), and `doctor`."""
