"""What the models can do, measured."""
