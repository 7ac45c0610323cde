"""The reconciler: the process that writes grants on user pods."""
