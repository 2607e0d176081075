import pytest

from export.plans.build_spec import Unable, check_version, engine_name


def test_an_engine_is_called_after_what_it_is_for() -> None:
    name = engine_name(384, "f32", "NVIDIA GeForce RTX 4090 (Ti)", "11.4.0.106")
    assert name == "384-f32-nvidia-geforce-rtx-4090-ti-trt11.4.0.106"


@pytest.mark.parametrize("version", ["10.13.0.35", "10.16.1.11", "11.0.0", "11.4.0.106"])
def test_versions_that_this_was_written_for(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["8.6.1", "10.12.0.36", "10.9", "12.0.0", "unknown"])
def test_other_versions_are_refused_with_what_to_install(version: str) -> None:
    with pytest.raises(Unable, match=rf"TensorRT {version} is installed; .* pip install 'tensorrt>=10.13,<12'"):
        check_version(version)
