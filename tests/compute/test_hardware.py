"""Deterministic computation, the kind of machine, and the errors for memory that ran out."""

import json
import os
import subprocess
import sys

import pytest
import torch

from ddpm.compute.hardware import compiles, is_out_of_memory, kind_of_machine, set_determinism

# Global settings of torch, so in a process of its own.
SETTINGS = """
import json, os, torch
from ddpm.compute import hardware
for wanted in (False, True):
    hardware.set_determinism(wanted)
    print(json.dumps({
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warns_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.deterministic,
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": [torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32],
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }))
assert not torch.cuda.is_initialized(), "cuBLAS reads its setting when it starts"
"""


def test_deterministic_leaves_a_gpu_no_choice_between_kernels_and_without_it_torch_chooses() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    script = [sys.executable, "-c", SETTINGS]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    without, deterministic = (json.loads(line) for line in done.stdout.splitlines())
    assert deterministic == {
        "algorithms": True,
        "warns_only": False,
        "cudnn": True,
        "benchmark": False,
        "tf32": [False, False],
        "cublas": ":4096:8",
    }
    assert (without["algorithms"], without["cudnn"], without["cublas"]) == (False, False, None)


def test_auto_compiles_on_cuda_only() -> None:
    devices = [torch.device(kind) for kind in ("cuda", "cpu", "mps")]
    assert [compiles("auto", device) for device in devices] == [True, False, False]
    assert [compiles(chosen, devices[1]) for chosen in (True, False)] == [True, False]


def test_a_workspace_that_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic
    try:
        set_determinism(True)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.deterministic = (
            before
        )


def test_memory_that_ran_out_is_distinguished_from_other_errors() -> None:
    for allocate in (lambda: bytearray(1 << 60), lambda: torch.empty(1 << 60, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as raised:
            allocate()
        assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))  # a real one needs a GPU
    with pytest.raises(RuntimeError) as other:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(other.value)


def test_the_kind_of_machine_names_what_moves_the_last_bits() -> None:
    kind = kind_of_machine(torch.device("cpu"))
    assert kind["threads"] == torch.get_num_threads()
    assert kind["instructions"] == torch.backends.cpu.get_cpu_capability()


# Global settings of torch, so each program is in a process of its own, a fork of one that has imported torch.
# torch has an older and a newer way to allow TF32.
PROGRAMS = [
    ("pass", "older"),
    ("backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = True", "older"),
    ("torch.set_float32_matmul_precision('medium')", "older"),
    ("backends.fp32_precision = 'tf32'", "newer"),  # torch then refuses to read the older flags
]
TF32 = """
import os, sys, torch
from ddpm.compute.hardware import full_float32

backends = torch.backends
kinds = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)

def newer():
    return [kind.fp32_precision for kind in kinds]

def older():
    return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32

def check(allow, way):
    exec(allow)
    before = newer(), older() if way == "older" else None
    with full_float32():
        assert newer() == ["ieee"] * 5, newer()
        assert older() == (False, False)
        assert torch.get_float32_matmul_precision() == "highest"
    assert (newer(), older() if way == "older" else None) == before

programs = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
for allow, way in programs:
    if not (child := os.fork()):
        check(allow, way)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, allow
print(len(programs), "checked")
"""


def test_metrics_are_measured_without_tf32_whatever_the_program_allowed() -> None:
    words = [word for program in PROGRAMS for word in program]
    done = subprocess.run([sys.executable, "-c", TF32, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{len(PROGRAMS)} checked\n"), done.stderr
