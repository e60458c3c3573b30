"""What makes it fast, and what measures how fast. Nothing that changes a result goes in here."""
