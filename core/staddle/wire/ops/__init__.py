"""The requests that clients, agents and the manager send one another: names, arguments, replies.

Stream messages (assign, commit, durable …) are `staddle.engine.messages`; here is everything round them.
Each request struct names its operation in `OP`, who may call it in `ROLES`, and its reply type in `REPLY`.
docs/wire.md lists them.
"""
