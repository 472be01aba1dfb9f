"""Measure what denoising costs, in inference, in training and in calibration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.benchmark.run import main

if __name__ == '__main__':
    main()
