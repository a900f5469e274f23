"""Everybody else's clients, each behind the same few lines of text; see `lines`."""
