"""What is judged after a fault is the same for a team's servers: tests/faults/whole.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
