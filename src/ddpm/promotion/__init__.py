"""Decide which version of the registered model is the champion: domain logic, without MLflow or a server."""
