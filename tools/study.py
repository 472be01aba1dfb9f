"""Does denoising help on your data? Train, compare and report, at equal budgets."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.study.run import main

if __name__ == '__main__':
    main()
