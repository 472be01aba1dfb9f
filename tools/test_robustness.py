"""How robust is a model? Stock checkpoints on corrupted images, side by side."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.robustness.run import main

if __name__ == '__main__':
    main()
