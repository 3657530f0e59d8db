"""An untrusted file of settings is refused in one sentence that names the key, and in a short time."""

import os
import re
import time
from pathlib import Path

import pytest

from ddpm import yaml_file
from ddpm.errors import UserError

BOMB = "a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 40))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data:\n  seed: 2020-01-01\n", "params.yaml: data.seed is a date; put it in quotes"),
        ("data:\n  path: !!binary aGk=\n", "params.yaml: data.path is binary data (!!binary)"),
        ("network:\n  multipliers: &m [1, *m]\n", "network.multipliers.1 is an alias of a value that contains it"),
        ("data: &d\n  path: {of: *d}\n", "data.path.of is an alias of a value that contains it"),
        (BOMB, "repeats aliases until there are more than 10000 values"),
        ("train: {lr: 1.0, lr: 2.0}\n", "train.lr is given twice; remove one, such as that in line 1"),
        ("train: {1: 2}\n", "train.1 is a key that is not a text"),
        ("train: {[1, 2]: 2}\n", "train.[…] is a key that is not a text"),
        ("train:\n  <<: {lr: 1.0}\n", "train.<< is a merge (<<); write the merged keys out"),
        ("train: {lr: !!python/object/apply:os.system [id]}\n", "train.lr has the tag python/object/apply:os.system"),
        ("train: {lr: !fast 3}\n", "train.lr has the tag !fast"),
        ("train: {lr: !!int fast}\n", "train.lr is 'fast', which is not a valid int"),
        ("train: {lr: !!float ''}\n", "train.lr is '', which is not a valid float"),
        ("train: !!set {a, b}\n", "train has the tag set"),
        (f"train:\n  seed: 1{'0' * 30}\n", "train.seed is an integer of more than 64 bits"),
        (f"train:\n  seed: {'9' * 6000}\n", "train.seed is '9999"),
        ("data: {path: \"a\\0b\"}\n", "data.path contains a character that no file name"),
        ("data: {path: \"\\ud800\"}\n", "params.yaml is not YAML"),
        ("[" * 150_000, "params.yaml is nested more than 20 deep in line 1"),
        ("".join(f"{' ' * k}a:\n" for k in range(300)), "params.yaml is nested more than 20 deep in line 21"),
        ("", "params.yaml is empty, expected sections"),
        ("- 1\n", "params.yaml is not a mapping, expected sections"),
        ("a: 1\n---\nb: 2\n", "params.yaml is not YAML"),
        ("a: [1", "params.yaml is not YAML in line 1, which is within a list or mapping whose bracket is never closed"),
        ("a:\n  b: 1\n\tc: 2\n", "params.yaml is not YAML in line 3, which begins with a tab; indent with spaces"),
        ("a:\n  b 1\n  c: 2\n", "params.yaml is not YAML in line 3, which has a colon where a value stands"),
        ("a: b: 1\n", "params.yaml is not YAML in line 1, which has a colon where a value stands"),
        ("a:\n  b: 1\n   c: 2\n", "params.yaml is not YAML in line 3, which has a colon where a value stands"),
        ("a:\n    b: 1\n  c: 2\n", "params.yaml is not YAML in line 3, which is not indented like the keys beside it"),
        ("a: 'b\nc: 1\n", "params.yaml is not YAML in line 1, which opens a quote that is never closed"),
        ("a: @b\n", "params.yaml is not YAML in line 1, which has a character that a text may not begin with"),
        ("a: *b\n", "params.yaml is not YAML in line 1, which uses an alias (*name) that is not defined"),
        ("a: \x07", "params.yaml is not YAML"),
        ("# long\n" * 200_000, "params.yaml has more than 200000 bytes"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_a_plain_setting_is_refused_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    began = time.thread_time()
    with pytest.raises(UserError, match=re.escape(says)) as refusal:
        yaml_file.read(path)
    assert time.thread_time() - began < 30
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("a: 1\nb: café\n".encode("latin-1"))
    with pytest.raises(UserError, match="is not UTF-8 in line 2; save it"):
        yaml_file.read(path)


def test_a_path_that_is_not_a_file_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="is not a file"):
        yaml_file.read(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="is not a file"):
        yaml_file.read(tmp_path)


def test_an_alias_and_every_kind_of_plain_value_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: {seed: &seed 1, lr: 1e-4, on: true, none: null, text: yes, huge: .inf}\nb: [*seed, *seed]\n")
    assert yaml_file.read(path) == {
        "a": {"seed": 1, "lr": 1e-4, "on": True, "none": None, "text": "yes", "huge": float("inf")},
        "b": [1, 1],
    }
