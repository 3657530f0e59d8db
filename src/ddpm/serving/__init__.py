"""Use of a model over HTTP, in MLflow and on the command line: requests, limits and answers."""
