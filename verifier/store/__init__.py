"""What verifier and reconciler keep in Redis."""
