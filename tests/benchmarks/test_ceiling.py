import torch

from benchmarks.ceiling import products


def test_the_products_that_are_timed_multiply_what_they_say() -> None:
    found = {name: product() for name, product in products(32, 16, 48).items()}
    assert [tuple(torch.as_tensor(result).shape) for result in found.values()] == [(32, 48)] * 3
    assert [torch.as_tensor(result).dtype for result in found.values()] == [torch.float32, torch.bfloat16, torch.int32]
