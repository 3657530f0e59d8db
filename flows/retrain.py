"""The flow `retrain`: runs the pipeline if there is a reason, and writes the decision as an artifact in every case.

`python flows/retrain.py [--force]` runs it in this process; prefect.yaml runs it on a schedule.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import dvc_stage
import pages
import unreported
from pipeline import pipeline
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from unreported import End, Page

from ddpm.errors import UserError
from ddpm.pipeline.workspace import InUseError, claim
from ddpm.redaction import redact_logs


@flow
def retrain(
    force: bool = False,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
) -> State:
    """Run the pipeline if the content hashes of data, parameters or code have changed, otherwise do nothing.

    The flow owns the workspace from its start to its end. Two retrainings, or a retraining and a person's `dvc repro`,
    therefore never run at the same time: the later one is refused.

    Args:
        force: Run every stage even if nothing has changed, for example after an upgrade of a library.
        retries: Number of times that a stage that crashed or was killed starts again; training continues from its last
            checkpoint.
        retry_delay_seconds: Time before each retry.
        timeout_seconds: Longest time of a stage; after it the stage is stopped and the flow fails. None: no limit.
        silent_seconds: Longest time that dvc may print nothing while no stage runs; after it dvc is stopped and the
            flow fails, because dvc may wait for a disk that does not answer. Hashing new data prints nothing either.
            None: no limit.
    """
    redact_logs()
    unreported.report_earlier_runs()
    try:
        with claim("the flow retrain"):
            dvc_stage.look()
            end = _decide(
                force,
                retries=retries,
                retry_delay_seconds=retry_delay_seconds,
                timeout_seconds=timeout_seconds,
                silent_seconds=silent_seconds,
            )
    except InUseError as error:
        end = End(Failed(name="Refused", message=str(error)))
    except UserError as error:
        end = End(Failed(message=str(error)))
    return unreported.conclude(end)


def _decide(force: bool, **limits: float | None) -> End:
    reasons, forced = _reasons(force, limits["silent_seconds"])
    for reason in reasons or ["nothing has changed"]:
        get_run_logger().info(reason)
    if not reasons:
        page = _page("Not retrained", ["Data, parameters, code and results have not changed."], gate=True)
        return End(Completed(name="Unchanged", message="nothing has changed, so nothing was done"), [page])
    if not unreported.comes_back():
        return End(Failed(message="the pipeline was not started"), [_page("Not retrained", reasons, gate=False)])

    def end_of(state: State) -> End:
        if not state.is_completed():
            return End(Failed(message=state.message), [_page(f"Failed at {state.message}", reasons, gate=False)])
        return End(Completed(message=state.message), [_page("Retrained", reasons, gate=True)])

    with unreported.within(end_of):
        state = pipeline(force=forced, **limits, return_state=True)
    return end_of(state)


def _reasons(force: bool, silent_seconds: float | None) -> tuple[list[str], list[str]]:
    """Return the reasons to run the pipeline and the stages to force. DVC compares content hashes."""
    if force:
        return ["forced"], dvc_stage.stages()
    if not Path("dvc.lock").exists():
        return ["the pipeline has not run here yet"], []
    changed = dvc_stage.changes(silent_seconds=silent_seconds)
    if changed:
        return [f"{stage}: {', '.join(what)}" for stage, what in changed.items()], []
    if pages.RUN.exists() and pages.registered().version is None:
        # MLflow's store is new or another one. A forced training logs its run there; it repeats no training step if the
        # finished training is still kept.
        return ["the registry does not have the model of this workspace"], ["train", "register"]
    return [], []


def _page(title: str, reasons: list[str], *, gate: bool) -> Page:
    text = f"## {title}\n\n" + "\n".join(f"- {reason}" for reason in reasons)
    if gate and pages.RUN.exists():
        text += f"\n\n## Decision of the gate\n\n{pages.decision(pages.registered())}"
    return Page("decision", text, title)


def main() -> None:
    import command_line

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="run every stage even if nothing has changed")
    command_line.run(retrain, force=parser.parse_args().force)


if __name__ == "__main__":
    main()
