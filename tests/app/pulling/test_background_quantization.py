"""8 bits beside the service, by a stand-in for the program that makes them; with a service in test_serve_sources.py."""

import asyncio
from pathlib import Path

import pytest

from app.pulling.background_quantization import BackgroundQuantization
from app.pulling.source_bundles import bundles_of_sources
from bundle.reader import open_bundle
from tests.support.stand_in_pull import stand_in_for_pull


@pytest.mark.parametrize("changes", [False, True])
def test_8_bits_are_made_of_the_weights_that_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path, caplog: pytest.LogCaptureFixture, changes: bool
) -> None:
    pull = stand_in_for_pull(tmp_path, monkeypatch, bundle, lambda: bundle)
    checkpoint = tmp_path / "finetuned.pth"
    checkpoint.write_bytes(b"weights")
    (place,) = bundles_of_sources([str(checkpoint)], ["--activation", "sigmoid"], print)
    served = open_bundle(place)
    reloads: list[None] = []

    async def reload() -> None:
        reloads.append(None)

    if changes:
        checkpoint.write_bytes(b"further trained")
    asyncio.run(BackgroundQuantization(reload).run([served]))
    served.close()
    made = [call for call in pull.calls if "--quantize int8" in call]
    if changes:
        assert (made, reloads) == ([], [])
        assert "finetuned stays as it is: what it was made from has changed; start anew for 8 bits" in caplog.text
    else:
        (call,) = made
        assert f"--activation sigmoid --quantize int8 --only-weights {served.manifest.weights.id} " in call
        assert len(reloads) == 1
