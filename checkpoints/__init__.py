"""How checkpoints are read: files, their names, and a plan that accounts for every tensor. No command goes in here."""
