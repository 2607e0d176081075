from benchmarks.machine import cpu, described

CPUINFO = """processor\t: 0
cpu family\t: 6
model\t\t: 207
model name\t: Some CPU
flags\t\t: fpu avx2 avx512_vnni xavx512f
"""


def test_family_and_instructions_tell_cpus_apart_whose_name_does_not() -> None:
    assert cpu(CPUINFO) == "Some CPU (family 6, model 207, avx2, avx512_vnni)"
    assert cpu("").endswith("(family unknown, model unknown)")


def test_a_machine_is_one_line_with_cores_cpu_versions_and_commit() -> None:
    facts = {
        "cores": 2,
        "cpu": "Some CPU",
        "driver": "",
        "python": "3.11",
        "versions": {"torch": "2.9"},
        "commit": "abc",
    }
    assert described(facts) == "2 cores of Some CPU, Python 3.11, torch 2.9; commit abc"
    assert ", driver 580.1, Python" in described(facts | {"driver": "580.1"})
