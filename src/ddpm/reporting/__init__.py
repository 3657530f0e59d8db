"""Describe a model to people: tables and pages in Markdown. This room reads no file and no store."""
