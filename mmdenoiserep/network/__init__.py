"""What one must know of a network to denoise its layers. Nothing here knows a denoiser."""
