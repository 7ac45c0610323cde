"""The egress proxy: user pods reach listed hosts through it, and it decides on each connection by the pod that opened it."""
