"""Which version of the registered model is the champion: domain logic, without MLflow and without a server."""
