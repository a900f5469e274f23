"""Who is it, and may they. Knows neither sockets nor fan-outs."""
