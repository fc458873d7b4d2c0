"""The drawn world's chapters of a report: what it can ask of a model, and judge by pixels and by reading."""
