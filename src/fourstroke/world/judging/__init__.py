"""Whether pictures show what the world's prompts ask for."""
