"""The nano models from nothing: tokenizer, policy and renderer, each by a seeded recipe."""
