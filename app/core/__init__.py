"""What is decided: pure state and rules. Nothing awaits, reads a clock or draws lots; time is an argument."""
