"""The flow `retrain`: runs the pipeline if there is a reason, and writes a page about its end in every case.

`python flows/retrain.py [--force]` runs it in this process; prefect.yaml runs it on a schedule.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("DO_NOT_TRACK", "1")  # prefect reads it when it is imported

import approve
import dvc_stage
import event_run
import httpx
import incoming
import own_checkout
import pages
import reasons
import stale_runs
import starts
import unreported
from pipeline import begin, nothing_changed, run_all, start_time
from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Completed, Failed
from unreported import End

from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import InUseError
from ddpm.tracking.run_json import has_record


@flow(flow_run_name=start_time, on_crashed=[stale_runs.after_crash], on_cancellation=[stale_runs.after_cancellation])
def retrain(
    force: bool = False,
    retries: int = 2,
    retry_delay_seconds: float = 10,
    timeout_seconds: float | None = None,
    silent_seconds: float | None = 3600,
    trigger: starts.Trigger | None = None,
    because: str | None = None,
) -> State:
    """Run the pipeline if the content hashes of data, parameters or code have changed, otherwise do nothing.

    The flow owns the folder in which it works from its start to its end: this one, or with `retrain.commit: branch` a
    checkout of its own (`own_checkout`). Two retrainings, or a retraining and a person's `dvc repro`,
    therefore never run at the same time: the later one is refused. One that answers an event makes a later run instead.

    Args:
        force: Run every stage even if nothing has changed, for example after an upgrade of a library.
        retries: Number of times that a stage that crashed, was killed or did not reach MLflow starts again; training
            continues from its last checkpoint.
        retry_delay_seconds: Time before each retry.
        timeout_seconds: Longest time of a stage; after it the stage is stopped and the flow fails. None: no limit.
        silent_seconds: Longest time that dvc may print nothing while no stage runs; after it dvc is stopped and the
            flow fails, because dvc may wait for a disk that does not answer. Hashing new data prints nothing either.
            None: no limit.
        trigger: What started the run, for its tags. None: the schedule if Prefect's scheduler made the run, else a
            person.
        because: Who or what asks for the run, for its name, such as "push by alice to main of alice/pictures".
    """
    begin()
    started = starts.of_this_run(trigger, because)
    try:
        end = own_checkout.retrain(
            lambda: _decide(
                force,
                started,
                retries=retries,
                retry_delay_seconds=retry_delay_seconds,
                timeout_seconds=timeout_seconds,
                silent_seconds=silent_seconds,
            )
        )
    except InUseError as error:
        end = _without_stages(_in_use(error, trigger, because))
    except UserError as error:
        end = _without_stages(Failed(message=str(error)))
    return unreported.conclude(end)


def _in_use(error: InUseError, trigger: starts.Trigger | None, because: str | None) -> State:
    """Return the state of a run that met another process; of an event's run, after it made a run that looks again."""
    refused: State = Failed(name="Refused", message=str(error))
    if trigger != "event":
        return refused
    try:
        seconds = load_params().retrain.event_again_seconds
        later = asyncio.run(event_run.after(unreported.this_run(), because, seconds=seconds))
    except (UserError, httpx.HTTPError, PrefectException) as fault:
        return Failed(
            name="Refused", message=f"{error}; the event is lost, because no later run could be made: {fault}"
        )
    if later is None:
        return refused
    at = later.state.state_details.scheduled_time if later.state else None
    when = f"at {at.astimezone():%H:%M:%S} " if at else ""
    return Completed(name="Completed: postponed", message=f"{error}; the run {later.name} looks {when}again")


def _decide(
    force: bool, started: starts.Start, *, retries: int, retry_delay_seconds: float, **limits: float | None
) -> End:
    for sentence in approve.close_waiting():
        get_run_logger().warning(sentence)
    dvc_stage.look(get_run_logger().warning)
    looked = incoming.look(seconds=limits["timeout_seconds"])
    found, forced = _reasons(force, limits["silent_seconds"])
    if looked.in_data and found:
        found = [reasons.Reason(3, looked.sentence, kind="drift"), *found]
    sentences = [str(reason) for reason in found]
    if looked.sentence and looked.sentence not in sentences:
        sentences.append(looked.sentence)
    for sentence in sentences or ["nothing has changed"]:
        get_run_logger().info(sentence)
    if not unreported.comes_back():
        return _without_stages(Failed(message="the pipeline was not started"), sentences)
    if not found:
        return _nothing_to_train(started, looked)
    started.say(reasons.in_short(found), [reason.tag for reason in found])
    return run_all(sentences, force=forced, retries=retries, retry_delay_seconds=retry_delay_seconds, **limits)


def _nothing_to_train(started: starts.Start, looked: incoming.Incoming) -> End:
    """Return the end of a run without a reason to train; pictures that have drifted are said once."""
    if looked.drifted and looked.is_new:
        started.say(looked.sentence, ["drift"])
        state: State = Completed(name="Completed: drift", message=looked.sentence)
    else:
        started.say("nothing changed", [])
        state = nothing_changed(looked.sentence)
    return End(state, pages.of_nothing(state, pages.registered() if pages.RUN.exists() else None))


def _without_stages(state: State, sentences: Sequence[str] = ()) -> End:
    return End(state, [pages.of_failure(state, sentences)])


def _reasons(force: bool, silent_seconds: float | None) -> tuple[list[reasons.Reason], list[str]]:
    """Return the reasons to run the pipeline and the stages to force. DVC compares content hashes."""
    if force:
        return [reasons.Reason(0, "forced", kind="forced")], dvc_stage.stages()
    if not Path("dvc.lock").exists():
        return [reasons.Reason(0, "first run", kind="first")], []
    changed = dvc_stage.changes(silent_seconds=silent_seconds)
    if changed:
        return reasons.of_changes(changed, data=Path(load_params().data.path)), []
    if pages.RUN.exists() and pages.registered().version is None:
        # MLflow's store is new or another one. It gets the run from its record; without one, a forced training logs its
        # run there, and repeats no training step if the finished training is still kept.
        again = ["register", "report"] if has_record(pages.RUN) else ["train", "register"]
        lacks = "the registry does not have the model of this workspace"
        return [reasons.Reason(3, lacks, kind="registry")], again
    return [], []


def main() -> None:
    import command_line

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="run every stage even if nothing has changed")
    command_line.run(retrain, force=parser.parse_args().force)


if __name__ == "__main__":
    main()
