"""An upgrade as docs/deployment.md has it: two projects of the compose file behind nginx, one after the other."""

import shutil
from pathlib import Path

import httpx
import pytest

from tests.docker.containers import Compose
from tests.support.nginx import AVAILABLE, nginx
from tests.support.servers import free_port
from tests.support.service_checks import asking, wait_until_ready


@pytest.mark.skipif(not AVAILABLE, reason="nginx or openssl is not installed")
def test_two_replicas_are_replaced_one_after_the_other_without_a_lost_request(
    service: Compose, bundle: Path, tmp_path: Path
) -> None:
    bundles = tmp_path / "bundles"
    shutil.copytree(bundle, bundles / bundle.name)
    for folder in (bundles, bundles / bundle.name):
        folder.chmod(0o755)  # the service is another user
    other = service.beside("2", {"PORT": str(free_port()), "BUNDLES": str(bundles)})
    try:
        other("up", "--detach", "--no-deps", "api")
        wait_until_ready(other.url, 180)
        ports = [int(replica.environment["PORT"]) for replica in (service, other)]
        with nginx(tmp_path, ports) as proxy, asking(proxy.url, trust=proxy.trust) as answers:
            for replica in (service, other):
                old, before = replica.container("api"), answers.total()
                replica("up", "--detach", "--force-recreate", "--no-deps", "api")
                wait_until_ready(replica.url)
                assert replica.container("api") != old
                assert answers.total() > before
            assert httpx.get(f"{proxy.url}/metrics", verify=proxy.trust).status_code == 404
        assert answers.keys() == {"200"}
    finally:
        other("down", "--volumes")
