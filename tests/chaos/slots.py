"""The places of the instances: who stands in one is replaced, the place stays."""

SLOTS = range(3)
VETERAN = 0
"""Its instance is never replaced by a fault, so that its memory can be watched for as long as a run lasts."""
