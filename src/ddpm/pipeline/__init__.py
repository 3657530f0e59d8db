"""The workspace of a pipeline: who owns it, which processes work in it, what DVC recorded."""
