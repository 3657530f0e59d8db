"""A dvc.lock that ends anywhere, as a dvc that is killed while it writes leaves it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ddpm.pipeline import dvc_lock

WHOLE = """schema: '2.0'
stages:
  one:
    cmd: python one.py
    outs:
    - path: reports/one.json
      hash: md5
      md5: 578350f43cccd63bab4a408829e1b8c3
      size: 17
  two:
    cmd: python two.py --long an
      option
    deps:
    - path: reports/one.json
      hash: md5
      md5: 578350f43cccd63bab4a408829e1b8c3
      size: 17
    params:
      params.yaml:
        data.size:
        seed: 0
"""


def test_wherever_the_file_ends_dvc_reads_what_is_kept_and_no_whole_entry_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    monkeypatch.chdir(tmp_path)
    stages, second = YAML(typ="safe").load(WHOLE)["stages"], WHOLE.index("  two:")
    for end in range(len(WHOLE)):
        dvc_lock.LOCK.write_text(WHOLE[:end])
        dvc_lock.mend(lambda sentence: None)
        assert not dvc_lock.is_torn()
        if dvc_lock.LOCK.exists():
            kept = YAML(typ="safe").load(dvc_lock.LOCK.read_text())
            COMPILED_LOCKFILE_SCHEMA(kept)
            assert end < second or kept["stages"]["one"] == stages["one"]
        else:
            assert end < second + len("  two:")


def test_a_whole_file_stays_and_a_missing_one_is_not_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dvc_lock.mend(pytest.fail)
    dvc_lock.LOCK.write_text(WHOLE)
    dvc_lock.mend(pytest.fail)
    assert dvc_lock.LOCK.read_text() == WHOLE
