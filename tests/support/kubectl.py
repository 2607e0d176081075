"""kubectl, for what it does without a cluster: kustomize, and patches of local files.

Debian's kubectl is too old for components of kustomize, so these tests are skipped where there is none at all.
"""

import shutil

import pytest

KUBECTL = shutil.which("kubectl") or ""
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl is not installed")
