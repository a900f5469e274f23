"""What is decided: pure state and rules. Nothing here awaits, reads a clock or draws a random number; time comes in as an argument."""
