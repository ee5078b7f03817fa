"""Scoring, given a judge: K-Score, text reward, their blend, and the judges.

Enters: Task, Answer, RenderedImage. Leaves: ScorePart and Score; JudgeError when no valid
verdict came. May import core, numpy and PIL; never ray, vllm, diffusers or envs.
"""
