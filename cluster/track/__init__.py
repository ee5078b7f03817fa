"""A run as seen from outside while it goes on: records, meters, live screen, W&B, Prometheus."""
