"""What tests stand on: real processes, real clients, the real emulator, and a Pub/Sub server with faults."""
