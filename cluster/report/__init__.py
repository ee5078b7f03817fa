"""A run as a person reads it afterwards: its numbers with intervals, its pages, its comparison."""
