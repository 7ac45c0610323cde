"""The egress proxy: user pods reach listed hosts through it, and it decides for each connection by the pod that opened it."""
