"""What one token is worth, one pure file per formula; learners/loss.py puts them together.

    clipped      GRPO, Dr.GRPO and DAPO: the ratio of each token, clipped on the losing side
    gspo         the ratio of the whole sequence, clipped on the losing side
    cispo        the ratio as a constant weight, clipped from above; every token keeps a gradient
    corrections  weights for tokens that an older policy, or another engine, sampled
    kl           distance to a frozen reference
    aggregation  how tokens become one number
    overlong     a price on sequences that near the limit

The published recipes are settings of these (`learner.*`):

    GRPO     objective clipped, clip_low = clip_high, advantage_std, sequence_mean
    Dr.GRPO  objective clipped, clip_low = clip_high, no advantage_std, sequence_mean_token_sum
    DAPO     objective clipped, clip_high > clip_low, advantage_std, token_mean, overlong_buffer;
             its dynamic sampling (a group without spread is replaced) is the controller's
    GSPO     objective gspo, sequence_mean, both clips in the order of 1e-4
    CISPO    objective cispo, token_mean

Dr.GRPO divides by a constant length besides, which scales every sequence and step alike.
"""

from typing import Literal

from learners.objectives.cispo import cispo
from learners.objectives.clipped import clipped
from learners.objectives.gspo import gspo
from learners.objectives.surrogate import Objective

Name = Literal["clipped", "gspo", "cispo"]

OBJECTIVES: dict[Name, Objective] = {"clipped": clipped, "gspo": gspo, "cispo": cispo}
