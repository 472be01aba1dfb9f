"""Does denoising help? Arms of equal training budget, over several seeds, compared in pairs."""
