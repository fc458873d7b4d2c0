"""Sheets, streams and latent caches; the procedural world lives in data.world."""
