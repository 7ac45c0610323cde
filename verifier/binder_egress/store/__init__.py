"""What the processes keep in Redis."""
