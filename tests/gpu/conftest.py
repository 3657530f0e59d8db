"""The tests of this folder use the tiny training of tests/training, also in the processes that they start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
