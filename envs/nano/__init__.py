"""The nano world: an embedded encyclopedia of flags, its tasks, tokenizer and scripted teachers."""
