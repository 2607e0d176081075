from benchmarks.machine import described, family, instructions

CPUINFO = """processor\t: 0
cpu family\t: 6
model\t\t: 207
model name\t: Some CPU
flags\t\t: fpu avx2 avx512_vnni xavx512f
"""


def test_only_instructions_that_matter_are_named_and_no_part_of_a_word_counts() -> None:
    assert instructions(CPUINFO) == ["avx2", "avx512_vnni"]
    assert instructions("") == []


def test_family_and_model_tell_cpus_apart_whose_name_does_not() -> None:
    assert family(CPUINFO) == "family 6, model 207"
    assert family("") == "family unknown"


def test_a_machine_is_one_line_with_cores_cpu_versions_and_commit() -> None:
    facts = {
        "cores": 2,
        "cpu": "Some CPU",
        "family": "family 6, model 207",
        "instructions": ["avx2"],
        "python": "3.11",
        "versions": {"torch": "2.9"},
        "commit": "abc",
    }
    assert described(facts) == "2 cores of Some CPU (family 6, model 207, avx2), Python 3.11, torch 2.9; commit abc"
