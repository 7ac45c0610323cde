"""What runs inside user pods."""
