import torch

torch.set_num_threads(1)  # small circuits: more threads than this only get in each other's way
