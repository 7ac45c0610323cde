"""Decisions: which tier a launch gets (`rules`), who gets none (`refusals`), and how long a grant lasts (`leases`)."""
