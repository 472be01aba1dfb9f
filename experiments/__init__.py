"""Evidence about the method: studies and benchmarks. Not part of the package."""
