"""The check of a version before it becomes champion: it is served as for a consumer, and its pictures are compared."""
