"""The images of a source become shards, a manifest and the facts of the data."""

import argparse
from pathlib import Path

from ddpm import idle
from ddpm.data.preparing.prepare import prepare
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import run_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    arguments = parser.parse_args()
    params = load_params()
    facts = prepare(
        params.data,
        raw=Path(params.data.path),
        prepared=arguments.prepared,
        state=arguments.state,
        workers=params.runtime.workers,
        cluster=params.runtime.cluster,
        progress=params.runtime.progress,
    )
    rejected = "".join(f", rejected {n}: {reason}" for reason, n in facts.rejected.items())
    print(
        f"{facts.name}: found {facts.found}, kept {facts.kept} ({facts.train} train, {facts.test} test){rejected}; "
        f"{facts.size}x{facts.size}, {facts.channels} channel(s), {len(facts.classes)} classes"
    )
    for sentence in idle.warned_of_size(params, facts.size):
        print(f"warning: {sentence}")


if __name__ == "__main__":
    run_stage(main)
