import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny models: more threads than this only get in the way of parallel test workers

# The same examples on every machine, and no time limit an example: a busy machine must not fail a test.
settings.register_profile("qpeft", deadline=None, max_examples=60, database=None, derandomize=True)
settings.load_profile("qpeft")
