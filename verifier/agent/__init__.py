"""The agent: looks at what the processes of user pods run, and reports what is on the operator's lists (docs/agent.md).

It needs the standard library, and `yara-x` in a process of its own. Its image has nothing else.
"""
