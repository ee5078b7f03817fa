"""The world the policy acts in: tasks, tokens, the episode loop, tools, images, the nano world.

Enters: Task, and a Policy to sample from. Leaves: Trajectory. May import core, aiohttp, numpy,
PIL and transformers' processors; never ray, vllm, diffusers or deepspeed.
"""
