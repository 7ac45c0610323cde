"""Decisions: which tier a launch gets (`rules`), and how long a grant lasts (`leases`)."""
