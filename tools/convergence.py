"""How long label-free training takes to the Loss_p that calibration reaches in one pass."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.convergence import main

if __name__ == '__main__':
    main()
