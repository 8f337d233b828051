"""Built-in media: a directory, and memory for tests."""
