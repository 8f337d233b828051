"""Built-in cluster manager: a single node that holds a file lock."""
