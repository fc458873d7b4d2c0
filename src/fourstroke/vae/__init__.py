"""The autoencoder between pictures and latents."""

from fourstroke.vae.autoencoder import Autoencoder, AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig"]
