"""The shared vocabulary: records, Protocols at the seams, errors, outcomes, config, metrics.

Enters: nothing. Leaves: types that every other room speaks. May import the standard library,
pydantic, numpy and yaml; never torch, ray, vllm or another room. Imports in well under a second.
"""
