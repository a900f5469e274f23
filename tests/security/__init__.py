"""Black-box attacks over real sockets: what an attacker sends harms no client beside it."""
