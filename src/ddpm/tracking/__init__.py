"""MLflow: the store of runs and the registry of models. The only room that imports mlflow."""
