"""Tests of what the cases are judged by."""
