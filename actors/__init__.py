"""Thin Ray shells and the heavy engines they hold: rollout (vLLM), search, render, judge.

Enters: the records of core. Leaves: the records of core, or a StageError. May import core,
envs, rewards, learners (weights only), ray, vllm and diffusers; never cluster.
"""
