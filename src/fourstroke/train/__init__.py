"""One loop, and one file for each stage."""
