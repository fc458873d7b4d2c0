"""Kinds of datasets that a recipe can name; each implements `data.sample.Dataset`."""
