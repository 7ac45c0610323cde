"""The commands of the image: `binder-egress` starts processes, `egress` is for operators."""
