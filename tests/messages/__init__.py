"""Ordinary mistakes, and what is said about them."""
