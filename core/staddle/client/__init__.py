"""The client: scan, backup, restore, metadata."""
