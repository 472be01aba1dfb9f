"""The robustness benchmark: stock checkpoints on corrupted images, side by side."""
