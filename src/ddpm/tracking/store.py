"""Where MLflow's store is, and whether it answers.

The server is the one in MLFLOW_TRACKING_URI. Without one, the store is in the project: `mlflow.db` (SQLite) and
`mlartifacts/`.
"""

import contextvars
import getpass
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from ddpm.errors import UnreachableError, UserError, not_installed
from ddpm.pipeline.checkout import PROJECT_VARIABLE
from ddpm.redaction import redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""How long to wait for an answer of the store. MLflow itself waits for several minutes."""
_MAKING_SECONDS = 600.0
"""How long to wait for a new database of the project: a few seconds of work, but minutes on a busy slow disk."""
_REFUSED = (400, 401, 403, 404, 409)
"""Statuses of HTTP of a request that would be refused again."""
_DATABASE_SERVERS = ("postgresql", "mysql", "mssql")
"""Beginnings of the addresses of databases that have a server."""


def project() -> Path:
    """Return the project's folder, also from its copies: a retraining's checkout, those of `dvc exp run --temp`."""
    return Path(os.environ.get(PROJECT_VARIABLE) or os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def default_uri() -> str:
    return f"sqlite:///{project() / 'mlflow.db'}"


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI without user and password (see `_hand_over_user`), or the project's store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    return _without_user(uri)[0] if is_server(uri) else uri


def shown_uri() -> str:
    """Return the store's address for messages: without a password, and without a local path for the project's store."""
    uri = tracking_uri()
    return "sqlite:///mlflow.db" if uri == default_uri() else redacted(uri)


def is_server(uri: str) -> bool:
    """Return whether the store is an HTTP server, and not a database that this process opens."""
    return urlsplit(uri).scheme.lower() in ("http", "https")


def connect(*, make: bool = False) -> "MlflowClient":
    """Return a client of the store after checking that the store answers.

    Raise UserError if the store does not answer, if MLflow is not installed, or if the project has no store yet and
    `make` is false. MLflow's global default store is not changed.
    """
    if find_spec("mlflow") is None:
        raise not_installed("mlflow")
    uri = tracking_uri()
    is_new = uri == default_uri() and not (project() / "mlflow.db").is_file()
    if is_new and not make:
        raise UserError(
            f"{project()} has no mlflow.db: run from the project's folder after `dvc repro` (after `dvc pull`: "
            "`dvc repro -f -s register report`), or name a store in MLFLOW_TRACKING_URI"
        )
    _hand_over_user()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's default of 7 retries would block a training for four minutes. The outbox keeps unsent entries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    import logging

    from mlflow import MlflowClient

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

    def connected() -> MlflowClient:
        if uri.startswith(_DATABASE_SERVERS):
            _ask_database(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client

    return answered(connected, seconds=_MAKING_SECONDS if is_new else None)


@cache
def _ask_database(uri: str) -> None:
    """Connect to the database once in a process. Where no server listens, MLflow itself would try for 100 seconds."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def answered(call: Callable[[], T], *, seconds: float | None = None) -> T:
    """Return the result of `call`, which uses the store. Raise UserError if it takes longer than `seconds` or fails.

    `seconds` defaults to ANSWER_SECONDS. `call` runs in a thread, because no setting of MLflow bounds the time of a
    call for every kind of store.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with mlflow_errors():
                answers.append(call())
        except BaseException as error:
            errors.append(error)

    limit = ANSWER_SECONDS if seconds is None else seconds
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(limit)
    if errors:
        raise errors[0]
    if not answers:
        raise UnreachableError(
            f"MLflow at {shown_uri()} did not answer within {limit:g} s; start the server again, or correct or unset "
            "MLFLOW_TRACKING_URI"
        )
    return answers[0]


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn an error of MLflow into a UserError of one sentence that names the store.

    It is an UnreachableError, after which flows try again, unless MLflow answered that the request itself is wrong.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        # Redact first: an address with a password is not recognised after it was cut.
        message = redacted(" ".join(str(error).split()))
        if isinstance(error, MlflowException) and error.get_http_status_code() in _REFUSED:
            raise UserError(
                f"MLflow at {shown_uri()} refused the request ({message[:400]}); correct what it names, or correct or "
                "unset MLFLOW_TRACKING_URI"
            ) from None
        raise UnreachableError(
            f"MLflow at {shown_uri()} refused or did not answer ({message[:400]}); "
            "start the server, or correct or unset MLFLOW_TRACKING_URI"
        ) from None


@contextmanager
def as_default_store() -> Iterator[None]:
    """Make the store MLflow's global default within the block: its SQL registry looks up logged models there."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(tracking_uri())
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def user() -> str:
    """Return the name of the user's account: on MLflow's server if that has accounts, else on this machine.

    An account of this machine that has no name, as in some containers, is named by its number.
    """
    account = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if account and is_server(tracking_uri()):
        return account
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _without_user(uri: str) -> tuple[str, str]:
    """Split an address into the address without user, and `user:password`."""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), user


def _hand_over_user() -> None:
    """Copy user and password of the address to MLflow's variables for them, because its errors quote the address."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if is_server(uri) and (user := _without_user(uri)[1]):
        name, _, password = user.partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(name)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
