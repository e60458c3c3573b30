"""What the loop in train.py stands on: flags, set-up, the folder of a run. No loss and no layer goes in here."""
