"""The fingerprint library: which chunk lies in which container, looked up in batches."""
