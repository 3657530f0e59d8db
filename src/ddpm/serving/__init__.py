"""The model over HTTP, in MLflow and on the command line: requests, bounds and answers."""
