"""The maps as printed, on dense N x N matrices: what the frames must equal. No code of the package runs here."""

import math

import torch


def square(block):
    """B, (N, N), of its trained columns (N, K')."""
    return torch.nn.functional.pad(block, (0, block.shape[0] - block.shape[1]))


def skew(block):
    return square(block) - square(block).T


def taylor(A, order):
    return sum(torch.linalg.matrix_power(A, p) / math.factorial(p) for p in range(order + 1))


def cayley(A):
    eye = torch.eye(len(A), dtype=A.dtype)
    return (eye + A) @ torch.linalg.inv(eye - A)


def neumann(A, order):
    eye = torch.eye(len(A), dtype=A.dtype)
    return (eye + A) @ sum(torch.linalg.matrix_power(A, p) for p in range(order + 1))


def reflections(block):
    """H_1 H_2 ... H_K' with 1 at each pivot."""
    product = torch.eye(len(block), dtype=block.dtype)
    for k in range(block.shape[1]):
        normal = block[:, k].clone()
        normal[k] += 1
        normal = normal / normal.norm()
        product = product @ (torch.eye(len(block), dtype=block.dtype) - 2 * torch.outer(normal, normal))
    return product


def ry(size, first, angle):
    """RY(angle) on axes `first` and `first` + 1, counted from 1."""
    cos, sin = math.cos(angle / 2), math.sin(angle / 2)
    rotation = torch.eye(size, dtype=torch.float64)
    rotation[first - 1 : first + 1, first - 1 : first + 1] = torch.tensor(
        [[cos, -sin], [sin, cos]], dtype=torch.float64
    )
    return rotation


def printed_givens(block):
    """Q_G as the paper prints it: prod_k prod_{n=k+1..N} G_{n-k}(B_nk)."""
    size, rank = block.shape
    product = torch.eye(size, dtype=torch.float64)
    for k in range(1, rank + 1):
        for n in range(k + 1, size + 1):
            product = product @ ry(size, n - k, float(block[n - 1, k - 1]))
    return product


def givens_for_columns(block):
    """prod_k prod_{n=N..k+1} G_{n-1}(B_nk)."""
    size, rank = block.shape
    product = torch.eye(size, dtype=torch.float64)
    for k in range(1, rank + 1):
        for n in range(size, k, -1):
            product = product @ ry(size, n - 1, float(block[n - 1, k - 1]))
    return product
