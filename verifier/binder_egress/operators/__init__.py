"""What operators do: the actions, and the command `egress`."""
