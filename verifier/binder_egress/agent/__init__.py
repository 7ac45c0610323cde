"""The agent: looks at the files that processes in user pods run, and reports those on the operator's lists (docs/agent.md).

It needs the standard library, and `yara-x` in a separate process. Its image has nothing else.
"""
