"""What denoising costs: latency, FLOPs and memory in inference, time and memory in training."""
