"""What OpenMMLab's configs, models and checkpoints are to us. Nothing here knows a denoiser."""
