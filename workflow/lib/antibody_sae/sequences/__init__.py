"""The antibodies of a run: written by the model, or read from files."""
