"""What is best for a deployed model that sees degraded images? Ways to robustness, compared."""
