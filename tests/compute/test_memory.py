"""Free memory is what the system and the limits of the process's cgroups leave."""

from pathlib import Path

import psutil
import torch

from ddpm.compute import memory


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_a_limit_of_version_2_counts_and_dropped_files_are_free(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    root = tmp_path / "groups"
    write(root / "a" / "b", memory__max="max\n", memory__current="5\n", memory__stat="inactive_file 1\n")
    write(root / "a", memory__max="1000\n", memory__current="700\n", memory__stat="anon 3\ninactive_file 100\n")
    assert memory._free_in_groups(own, root) == [400]


def test_a_limit_of_version_1_counts_even_where_the_container_shows_its_group_as_the_root(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("9:cpu:/x\n4:memory:/docker/123\n")
    root = tmp_path / "groups"
    group = {"memory__limit_in_bytes": "1000", "memory__usage_in_bytes": "1200", "memory__stat": "cache 1\n"}
    write(root / "memory", **group)
    assert memory._free_in_groups(own, root) == [0]


def test_without_cgroups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory._free_in_groups(tmp_path / "none", tmp_path) == []


def test_no_more_is_free_than_the_system_has() -> None:
    assert 0 < memory.free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total
