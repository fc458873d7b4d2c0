"""The autoencoder between pictures and latents."""

from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig, to_pixels

__all__ = ["Autoencoder", "AutoencoderConfig", "to_pixels"]
