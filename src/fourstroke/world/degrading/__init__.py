"""How what the second edition shows is taken apart for the prompt enhancer: scenes, pages and edits."""
