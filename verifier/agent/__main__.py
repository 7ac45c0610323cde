"""`python3 -m verifier.agent`: the agent."""

from .process import main

main()
