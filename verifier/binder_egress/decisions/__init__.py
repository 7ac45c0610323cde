"""Decisions: which tier a launch gets (`rules`), which pass counts (`presented`), who gets none (`refusals`), and how long a grant
lasts (`leases`). Also whether a label that was taken off acts (`acted`)."""
