"""Chaos: faults by a seeded schedule while numbered messages flow, and a ledger that says whether each arrived once."""
