"""Conversations: from messages to a prompt, and from what the model writes to an answer.

`completion` puts it together; `template` renders, in `sandbox` and `program`; `formats` are known by name; `tools` says
what may be called, and `calls` reads what was.
"""
