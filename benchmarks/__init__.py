"""Speed, memory and margins, measured side by side; each command leaves a table in assets/tables."""

import sys
from pathlib import Path

# The checkpoints, faults and exports that benchmarks share with the tests are in tests/gate.
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
