"""The contracts that plugins implement, with their clauses in prose."""
