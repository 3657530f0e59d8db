"""The workspace of a pipeline: its owner, the processes that work in it, and what DVC declares and records."""
