"""The wire, pure and used by both sides: envelopes, packets, configuration, requests; no socket, no clock."""
