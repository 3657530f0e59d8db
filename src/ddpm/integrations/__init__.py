"""The only modules that import mlflow, great_expectations or torch_fidelity."""
