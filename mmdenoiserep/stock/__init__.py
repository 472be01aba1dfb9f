"""What OpenMMLab's configs, models and checkpoints are to us. Of denoisers it
knows the names of their types and keys alone."""
