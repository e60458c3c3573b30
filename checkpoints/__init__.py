"""How published files are read: their tensors, their names, and a plan that accounts for every one. No command."""
