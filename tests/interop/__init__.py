"""Everybody else's clients and proxies at the hub: `make interop`."""
