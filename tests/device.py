"""Where learners of tests compute and small pipelines draw: DS_ACCELERATOR=cuda takes a GPU.

DS_ACCELERATOR=cuda pytest tests/integration/test_learner_grpo.py tests/actors/test_diffusion.py
"""

import os

DEVICE = os.environ.get("DS_ACCELERATOR", "cpu")
