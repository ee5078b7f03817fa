"""What a recipe needs, worked out before anything starts: placement, memory, seconds per step."""
