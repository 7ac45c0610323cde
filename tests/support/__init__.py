"""What tests share."""

from pathlib import Path

TOP = Path(__file__).parents[2]
"""The top of the project."""
