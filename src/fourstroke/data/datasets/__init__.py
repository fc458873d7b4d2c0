"""Kinds of datasets, a file each; `fourstroke/data/__init__.py` lists the names by which a recipe knows them."""
