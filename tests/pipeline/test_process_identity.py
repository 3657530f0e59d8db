"""A process is recognised by its pid, its start and its machine."""

import subprocess
from dataclasses import replace

from ddpm.pipeline.process_identity import ProcessIdentity, place


def test_a_process_lives_until_it_ends_and_a_record_of_it_reads_back() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert ProcessIdentity.read(identity.record()) == identity
        assert identity.fate() == "lives"
        process.kill()
        process.stdin.close()  # type: ignore[union-attr]
    assert identity.fate() == "ended"


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen(["true"])
    identity = ProcessIdentity.of(process.pid)
    while identity.fate() == "lives":
        pass
    assert process.wait() == 0


def test_another_process_with_the_same_pid_is_not_taken_for_it() -> None:
    assert replace(ProcessIdentity.of(), ticks="1").fate() == "ended"


def test_a_restart_of_the_machine_ends_its_processes_and_those_of_others_are_unknown() -> None:
    own = ProcessIdentity.of()
    namespace = place().partition(" ")[2]
    before = replace(own, place=f"an earlier boot {namespace}".replace(" ", "-", 2))
    if own.machine and namespace == "pid:[4026531836]":
        assert before.fate() == "restarted"
    assert replace(before, machine="another").fate() == "unknown"
    assert replace(before, host="another").fate() == "unknown"
    assert replace(before, machine="").fate() == "unknown"
    assert replace(own, place=place().replace(namespace, "pid:[1]")).fate() == "unknown"


def test_an_incomplete_record_is_no_process() -> None:
    record = ProcessIdentity.of().record()
    for name in record:
        assert ProcessIdentity.read({key: value for key, value in record.items() if key != name}) is None
    assert ProcessIdentity.read(record | {"pid": "none"}) is None
