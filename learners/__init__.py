"""Groups in, better weights out: advantage, samples, loss, the DeepSpeed step, publishing.

Enters: Group. Leaves: LearnerReport, WeightUpdate, checkpoints. May import core, envs.chat,
torch, deepspeed, transformers, peft and safetensors (RLlib in rllib_learner.py only).
"""
