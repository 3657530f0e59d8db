"""The gate's errors are tested on the simulated contest of benchmarks/."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
