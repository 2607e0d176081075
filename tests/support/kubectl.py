"""kubectl, for what it does without a cluster: kustomize, and patches of local files."""

import os
import shutil

import pytest

KUBECTL = shutil.which("kubectl") or ""
# Where tests must be complete, a missing kubectl makes them fail: none has it as an optional part.
needs_kubectl = pytest.mark.skipif(not (KUBECTL or os.environ.get("TESTS_COMPLETE")), reason="kubectl is not installed")
