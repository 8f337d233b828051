"""The op-log, which is the authority, and its queryable projection in DuckDB."""
