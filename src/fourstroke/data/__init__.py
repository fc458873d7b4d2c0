"""Sheets, streams and latent caches."""
