"""Autobahn's cases against the server, in each of the ways in which it serves: `make conformance`."""
