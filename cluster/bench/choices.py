"""What a user can choose about an evaluation. Light: the command line imports it at its start."""

from typing import Literal

Benchmark = Literal["nano", "knowgen", "wise", "prompts"]
AgentKind = Literal["checkpoint", "none", "workflow", "openai"]
"""checkpoint: the policy of the recipe, or the one given. workflow: the same with the full system
prompt, for a model that was not trained for the protocol. openai: `agent.model` behind an endpoint.
none: the raw prompt, straight to the image model."""
Stage = Literal["agent", "render", "judge"]
STAGES: tuple[Stage, ...] = ("agent", "render", "judge")
Missing = Literal["zero", "skip", "fail"]
"""What a row without a score counts as in the headline."""
