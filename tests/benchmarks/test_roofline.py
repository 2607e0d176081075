import numpy as np
import torch

from benchmarks.roofline import matrix_products


def test_the_products_that_are_timed_multiply_what_they_say() -> None:
    torch.manual_seed(0)
    found = {name: product() for name, product in matrix_products(32, 16, 48).items()}
    tensors = {name: result for name, result in found.items() if isinstance(result, torch.Tensor)}
    assert {name: result.dtype for name, result in tensors.items()} == {
        "f32": torch.float32,
        "bf16": torch.bfloat16,
        "int8, uint8 out": torch.uint8,
        "int8, int32 out": torch.int32,
    }
    assert {tuple(result.shape) for result in tensors.values()} == {(32, 48)}
    sums = tensors["int8, int32 out"].double().numpy()  # of the same numbers: 0.05 * 0.01 of them, in steps of 30
    expected = np.clip(np.round(sums * 0.05 * 0.01 / 30 + 128), 0, 255)
    np.testing.assert_allclose(tensors["int8, uint8 out"].numpy(), expected, atol=1)
    np.testing.assert_allclose(tensors["bf16"].float().numpy(), tensors["f32"].numpy(), rtol=0.05, atol=0.2)
