"""The commands of the image, and what their words start: `binder-egress` runs what containers run, `egress` is for operators."""
