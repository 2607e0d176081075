import numpy as np
import pytest
import torch

from bundle.scores import scores


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_are_those_of_pytorch_also_for_logits_that_would_overflow(activation: str) -> None:
    logits = np.array([[1, 2, 3], [1e4, 0, -1e4], [-800, -801, -802]], np.float32)
    wide = torch.from_numpy(logits).double()
    expected = torch.softmax(wide, 1) if activation == "softmax" else torch.sigmoid(wide)
    found = scores(logits, activation)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(scores(logits[1], activation), found[1])  # type: ignore[arg-type]
