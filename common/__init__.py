"""What everybody may use and what knows nobody: nothing in here imports another part of the project."""
