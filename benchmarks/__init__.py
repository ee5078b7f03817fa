"""Side-by-side measurements; each script prints one JSON object as its last line."""
