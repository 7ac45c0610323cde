"""The egress proxy in tests: ClientHellos, and the battery of escapes."""
