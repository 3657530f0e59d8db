"""Make accounts in MLflow, or give existing ones another password: `python accounts.py NAME=VARIABLE …`.

VARIABLE is the environment variable with the password. `--edit MODEL` also lets these accounts change the registered
model of this name and the experiments of its versions, as `ddpm promote` and `ddpm rollback` do. MLFLOW_TRACKING_URI,
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD name the server and its administrator.
"""

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("accounts", nargs="+", metavar="NAME=VARIABLE")
    parser.add_argument("--edit", metavar="MODEL", help="a registered model that these accounts may change")
    args = parser.parse_args()
    passwords = dict(_password(account) for account in args.accounts)

    from mlflow.server.auth.client import AuthServiceClient

    server = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    for name, password in passwords.items():
        _make(server, name, password)
        if args.edit:
            _let_edit(server, name, args.edit)


def _password(account: str) -> tuple[str, str]:
    name, _, variable = account.partition("=")
    if not os.environ.get(variable):
        sys.exit(f"error: the environment has no {variable or 'variable'} with the password of {name}; set it")
    return name, os.environ[variable]


def _make(server: "AuthServiceClient", name: str, password: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        server.create_user(name, password)
        print(f"made the account {name}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        server.update_user_password(name, password)
        print(f"the account {name} has the password of the environment")


def _let_edit(server: "AuthServiceClient", name: str, model: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    runs = {version.run_id for version in client.search_model_versions(f"name='{model}'") if version.run_id}
    experiments = {client.get_run(run).info.experiment_id for run in runs}
    server.grant_user_permission(name, "registered_model", model, "EDIT")
    for experiment in sorted(experiments):
        server.grant_user_permission(name, "experiment", experiment, "EDIT")
    print(f"{name} may change {model} and {len(experiments)} experiments")


if __name__ == "__main__":
    main()
