"""What travels: messages, their JSON, error codes and close codes. Pure: no clock, no chance, no input or output."""
