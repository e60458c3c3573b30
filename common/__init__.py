"""What every part may use. Nothing that imports another part of the project goes in here."""
