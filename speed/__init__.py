"""What makes it fast, and what measures how fast. The model computes the same without it."""
