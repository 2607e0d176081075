"""Selection with engines that are fakes, in this process; those in processes are in process/test_launch.py."""

import logging
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from app.engines import registry
from app.engines.engine_process import engine_host, measured_agreement, selection
from app.engines.engine_process.engine_host import EngineHost
from app.engines.engine_process.launch import EngineProcess
from app.engines.engine_process.selection import Candidate, EngineRequest, EngineSearch
from app.engines.interface import EngineFiles, EngineRefused
from app.errors import EngineFailed, NoEngine, WrongAnswers
from app.processes.worker import Worker, WorkerDied
from bundle.agreement import Agreement
from bundle.bundle_errors import BadBundle
from bundle.golden import Golden
from bundle.plans import Plans
from bundle.reader import Bundle, open_bundle
from bundle.tensors import Outputs
from model.spec import SOFTMAX
from tests.support.agreements import GOOD, agreement


class Chosen:
    """What a search found, and which fakes were loaded then; its process has ended."""

    def __init__(self, search: EngineSearch, process: EngineProcess) -> None:
        self.loaded = list(Fake.loaded)
        self.name = process.name
        self.precision = process.precision
        self.batch = process.batch
        self.refused = search.refused


def choose(
    bundle: Bundle,
    engine: str = "auto",
    precision: str = "auto",
    *,
    prefer: Candidate | None = None,
    restart: Candidate | None = None,
    least_agreement: float | None = None,
) -> Chosen:
    request = EngineRequest(engine, precision, prefer, restart, least_agreement)
    search = EngineSearch(bundle, 224, request, seconds=60)
    try:
        return Chosen(search, search.find())
    finally:
        for worker in search._workers:
            worker.kill()


def test_auto_compares_the_engines_of_a_tier_and_later_starts_try_only_the_fastest(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is remembered there
    monkeypatch.setattr(selection, "TIERS", (registry.ON_CPU,))  # as on CPUs where either may be the faster one
    caplog.set_level(logging.INFO)
    opened = open_bundle(bundle)
    chosen = choose(opened)
    rates = {line.split(":")[0]: float(line.split()[2]) for line in caplog.messages if "images/s" in line}
    assert {"openvino f32", "onnxruntime f32"} <= rates.keys()
    assert rates[f"{chosen.name} {chosen.precision}"] == max(rates.values())
    assert 1 <= chosen.batch <= 32
    caplog.clear()
    later = choose(opened)
    assert (later.name, later.precision) == (chosen.name, chosen.precision)
    assert "images/s" not in caplog.text


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_can_be_requested(bundle: Path, name: str) -> None:
    chosen = choose(open_bundle(bundle), name, "f32")
    assert (chosen.name, chosen.precision, chosen.refused) == (name, "f32", {})


def test_a_precision_that_no_engine_has_is_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    message = "no engine here for engine=onnxruntime, precision=bf16: it has f32 here"
    with pytest.raises(NoEngine, match=message):
        choose(opened, "onnxruntime", "bf16")
    with pytest.raises(NoEngine, match=r"engine=auto, precision=int4: install one .*f32 runs everywhere"):
        choose(opened, precision="int4")


def test_eight_bits_that_the_bundle_lacks_are_an_error_that_says_how_to_get_them(bundle: Path) -> None:
    for precision in ("int8", "int8-bf16"):
        with pytest.raises(NoEngine, match="the bundle has no graph in 8 bits; export it again with --quantize int8"):
            choose(open_bundle(bundle), precision=precision)


def described(
    measured: Mapping[str, Agreement] | None = None, unfit: Sequence[str] = (), command: str = "python export/to_trt.py"
) -> Bundle:
    """A bundle without files, of which only what selection reads is there."""
    on_cpu = {"bf16": GOOD, "fp16": GOOD} if measured is None else measured
    described = SimpleNamespace(
        name="b",
        graphs={},
        plans=Plans(unfit={224: list(unfit)}),
        manifest=SimpleNamespace(
            classes=2,
            default_resolution=224,
            agreement={precision: {224: found} for precision, found in on_cpu.items()},
            precisions={},
        ),
        golden=lambda _: Golden(np.zeros((1, 224, 224, 3), np.uint8), np.zeros((3, 1, 2), np.float32)),
        plan_command=lambda _: command,
    )
    return cast(Bundle, described)


class LocalWorker:
    """A worker that is this process. An error of its own ends it, as it does a real one."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host

    def call(self, method: str, values: list[Any], arrays: list[Any], **_: object) -> Any:
        return getattr(self._host, method)(*values, *arrays)

    def kill(self) -> None:
        if self._host._engine is not None:
            self._host._engine.close()


class LocalProcess(EngineProcess):
    def __init__(
        self,
        bundle: Bundle,
        resolution: int,
        memories: Sequence[int],
        *,
        seconds: float,
        null_rate: float,
        background: bool,
        on_spawn: Callable[[Worker], None],
    ) -> None:
        self._golden = bundle.golden(resolution)
        self._seconds = seconds
        host = EngineHost(
            {},
            [],
            bundle.plan_command(resolution),
            self._golden.images.shape[1],
            2,
            SOFTMAX,
            null_rate,
            background,
            memories,
        )
        self.worker = cast(Worker, LocalWorker(host))
        on_spawn(self.worker)


class Fake:
    """Takes as long as it is told; the real engines are in test_engines.py."""

    name = "fake"
    batch = 8
    answer = 0.0
    seconds: ClassVar[dict[str, float]] = {"bf16": 0.03, "f32": 0.01}
    loaded: ClassVar[list[str]] = []  # that hold memory now
    most: ClassVar[int] = 0  # that held memory at a time

    def __init__(self, precision: str, name: str = "fake") -> None:
        self.precision = precision
        self.name = name

    def load(self, side: int) -> None:
        if self.seconds[self.precision] == 0:
            raise RuntimeError(f"cannot run at {side}")
        Fake.loaded.append(f"{self.name} {self.precision}")
        Fake.most = max(Fake.most, len(Fake.loaded))

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        time.sleep(self.seconds[self.precision])
        return np.full((3, len(images), 2), self.answer, np.float32)

    def close(self) -> None:
        if f"{self.name} {self.precision}" in Fake.loaded:
            Fake.loaded.remove(f"{self.name} {self.precision}")


def offers(_: EngineFiles, __: int) -> Iterator[Fake]:
    yield from map(Fake, ("bf16", "f32"))


def install(
    monkeypatch: pytest.MonkeyPatch, modules: SimpleNamespace, engines: dict[str, str], tiers: Iterable[tuple[str, ...]]
) -> None:
    monkeypatch.setitem(sys.modules, "fakes", modules)
    monkeypatch.setattr(registry, "ENGINES", engines)
    monkeypatch.setattr(selection, "TIERS", tuple(tiers))
    monkeypatch.setattr(selection, "EngineProcess", LocalProcess)
    monkeypatch.setattr(selection, "open_cache", lambda _: None)
    monkeypatch.setattr(engine_host, "open_cache", lambda _: None)
    monkeypatch.setattr(Fake, "loaded", [])
    monkeypatch.setattr(Fake, "most", 0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {"fake": "fakes:offers", "absent": "not_installed:offers"}
    install(monkeypatch, SimpleNamespace(offers=offers), engines, [("fake", "absent")])
    for module in (selection, engine_host, measured_agreement):
        monkeypatch.setattr(module, "ON_CPU", ("fake", "absent"))


@pytest.mark.usefixtures("fakes")
def test_the_fastest_wins_whatever_the_cpu_promises() -> None:
    assert choose(described()).precision == "f32"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the tiers are those of x86-64")
def test_onnx_runtime_is_not_tried_where_openvino_works(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is remembered there
    caplog.set_level(logging.INFO)
    chosen = choose(open_bundle(bundle))
    assert (chosen.name, chosen.refused) == ("openvino", {})
    assert "images/s" not in caplog.text  # nothing is left to compare it with


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("instructions", "loaded"), [(True, ["int8"]), (False, ["int8", "f32"])])
def test_float32_is_not_tried_where_eight_bits_work_and_the_cpu_has_instructions_for_them(
    instructions: bool, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    load = Fake.load

    def noting_load(self: Fake, side: int) -> None:
        tried.append(self.precision)
        load(self, side)

    monkeypatch.setattr(Fake, "load", noting_load)
    monkeypatch.setattr(Fake, "seconds", {"int8": 0.01, "f32": 0.02})
    monkeypatch.setattr(selection, "has_dot_products", lambda: instructions)
    monkeypatch.setattr(sys.modules["fakes"], "offers", lambda *_: map(Fake, ("int8", "f32")))
    assert choose(described({"int8": GOOD})).precision == "int8"
    assert tried == loaded
    monkeypatch.setattr(Fake, "seconds", {"int8": 0.0, "f32": 0.02})  # eight bits fail
    assert choose(described({"int8": GOOD})).precision == "f32"
    assert choose(described({"int8": GOOD}), precision="f32").precision == "f32"


@pytest.mark.usefixtures("fakes")
def test_a_machine_that_is_busy_for_a_while_does_not_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    load, run = Fake.load, Fake.run
    busy_until = 0.0

    def load_busily(self: Fake, side: int) -> None:
        nonlocal busy_until
        load(self, side)
        if self.precision == "f32":
            busy_until = time.monotonic() + 0.25

    def run_slowly(self: Fake, images: NDArray[np.uint8]) -> Outputs:
        if time.monotonic() < busy_until:
            time.sleep(4 * self.seconds[self.precision])
        return run(self, images)

    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.02, "f32": 0.01})
    monkeypatch.setattr(Fake, "load", load_busily)
    monkeypatch.setattr(Fake, "run", run_slowly)
    assert choose(described()).precision == "f32"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({"bf16": agreement(distance=0.3)}, "its logits differ from float32's by 30.0% of their spread over 200 views"),
        ({}, "it was not compared with float32"),
    ],
)
def test_a_precision_that_answers_otherwise_than_float32_is_taken_by_name_only(
    measured: dict[str, Agreement], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.001, "f32": 0.03})
    assert choose(described(measured)).precision == "f32"
    assert f"fake bf16 is not tried at 224: {why}" in caplog.text
    assert "--precision bf16 takes it all the same" in caplog.text
    assert choose(described(measured), precision="bf16").precision == "bf16"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("least", "precision"), [(0.98, "bf16"), (0.985, "f32")])
def test_the_share_of_best_classes_that_is_enough_can_be_set(
    least: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.001, "f32": 0.03})
    measured = {"bf16": agreement(top1=0.98, distance=0.3)}
    assert choose(described(measured), least_agreement=least).precision == precision


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(("f32_seconds", "precision"), [(0.0312, "f32"), (0.0324, "bf16")])
def test_of_engines_that_are_as_fast_the_one_nearer_to_float32_is_taken(
    f32_seconds: float, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.03, "f32": f32_seconds})
    monkeypatch.setattr(LocalProcess, "time_image", lambda process: Fake.seconds[process.precision])
    assert choose(described()).precision == precision


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("faster", ["bf16", "fp16"])
def test_of_engines_as_near_to_float32_the_faster_is_taken(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.03, "fp16": 0.03, faster: 0.0295})
    monkeypatch.setattr(LocalProcess, "time_image", lambda process: Fake.seconds[process.precision])
    monkeypatch.setattr(sys.modules["fakes"], "offers", lambda *_: map(Fake, ("bf16", "fp16")))
    assert choose(described()).precision == faster


class Notes:
    """What a compiled cache remembers, but the compiled models."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def read_json(self, name: str) -> Any:
        return self.kept.get(name)

    def write_json(self, name: str, value: object) -> None:
        self.kept[name] = value

    def drop(self, _: str, but: str) -> None:
        pass


@pytest.mark.usefixtures("fakes")
def test_a_choice_is_remembered_until_other_precisions_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(selection, "open_cache", lambda _: notes)
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.01, "f32": 0.02})
    far = {"bf16": agreement(top1=0.98, distance=0.3)}
    assert choose(described(far)).precision == "f32"
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.02, "f32": 0.01})
    assert choose(described({"bf16": GOOD})).precision == "f32"
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.01, "f32": 0.02})
    assert choose(described({"bf16": GOOD})).precision == "f32"  # remembered
    assert choose(described(far), least_agreement=0.97).precision == "f32"  # the same precisions agree
    notes.kept.clear()
    assert choose(described(far)).precision == "f32"
    assert choose(described(far), least_agreement=0.97).precision == "bf16"


@pytest.mark.usefixtures("fakes")
def test_an_engine_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.01, "f32": 0.0})
    assert choose(described()).precision == "bf16"


@pytest.mark.usefixtures("fakes")
def test_where_all_fail_the_reason_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.0, "f32": 0.0})
    with pytest.raises(NoEngine, match="the log says why"):
        choose(described())
    assert "cannot run at 224" in caplog.text


@pytest.mark.usefixtures("fakes")
def test_an_engine_that_is_not_installed_is_refused_with_what_would_do() -> None:
    with pytest.raises(NoEngine, match=r"not_installed.*install it with pip install .*\[cpu\]'"):
        choose(described(), "absent")


@pytest.mark.usefixtures("fakes")
def test_a_fast_engine_with_wrong_answers_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Fake.run

    def wrong_in_bfloat16(self: Fake, images: NDArray[np.uint8]) -> Outputs:
        outputs = honest(self, images)
        return outputs + 1 if self.precision == "bf16" else outputs

    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.001, "f32": 0.03})
    monkeypatch.setattr(Fake, "run", wrong_in_bfloat16)
    assert choose(described()).precision == "f32"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("answer", [1.0, float("nan")])
def test_wrong_answers_of_the_only_engine_are_refused(monkeypatch: pytest.MonkeyPatch, answer: float) -> None:
    monkeypatch.setattr(Fake, "answer", answer)
    with pytest.raises(WrongAnswers, match="fake f32 gives wrong answers: logits"):
        choose(described(), "fake", "f32")


@pytest.mark.usefixtures("fakes")
def test_engines_that_are_not_taken_give_their_memory_back_before_the_next_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fake, "seconds", {"fp16": 0.02, "bf16": 0.001, "f32": 0.03})
    four = ("fp16", "bf16", "f32", "lacking")
    monkeypatch.setattr(sys.modules["fakes"], "offers", lambda *_: map(Fake, four))
    chosen = choose(described())
    assert chosen.precision == "bf16"
    assert chosen.loaded == ["fake bf16"]
    assert Fake.most == 2  # the best so far, and the one that is tried


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Fakes of what needs a GPU, in tiers above a fake for the CPU, which is faster: tiers go before time."""
    monkeypatch.setattr(Fake, "seconds", {"fp16": 0.01, "bf16": 0.005, "f32": 0.001})
    modules = SimpleNamespace(
        plans=lambda *_: (Fake(precision, "tensorrt") for precision in ("fp16", "bf16")),
        cuda=lambda *_: iter([Fake("f32", "onnxruntime-cuda")]),
        cpu=lambda *_: iter([Fake("f32", "onnxruntime")]),
    )
    engines = {"tensorrt": "fakes:plans", "onnxruntime-cuda": "fakes:cuda", "onnxruntime": "fakes:cpu"}
    install(monkeypatch, modules, engines, ((name,) for name in engines))
    return modules


def raising(err: Exception) -> object:
    def offers(*_: object) -> Iterator[Fake]:
        raise err
        yield

    return offers


@pytest.mark.usefixtures("gpu")
def test_a_higher_tier_is_taken_whatever_its_time_and_in_it_the_fastest() -> None:
    chosen = choose(described())
    assert (chosen.name, chosen.precision, chosen.refused) == ("tensorrt", "bf16", {})
    assert chosen.loaded == ["tensorrt bf16"]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (EngineRefused("no plan for 224; build one"), {"tensorrt": "no plan for 224; build one"}),
        (
            OSError("libnvinfer.so.10 is no library\nat all"),
            {"tensorrt": "it cannot be used: OSError: libnvinfer.so.10 is no library"},
        ),
        (ModuleNotFoundError("No module named 'tensorrt'"), {}),
    ],
)
def test_an_engine_that_does_not_serve_here_is_passed_over_with_its_reason(
    gpu: SimpleNamespace, error: Exception, refused: dict[str, str]
) -> None:
    gpu.plans = raising(error)
    chosen = choose(described())
    assert (chosen.name, chosen.refused) == ("onnxruntime-cuda", refused)


def test_without_a_gpu_nothing_is_refused(gpu: SimpleNamespace) -> None:
    gpu.plans = gpu.cuda = lambda *_: iter(())
    chosen = choose(described())
    assert (chosen.name, chosen.refused) == ("onnxruntime", {})


def test_plans_that_cannot_be_used_are_told_of_where_nothing_else_is(gpu: SimpleNamespace) -> None:
    unfit = described(unfit=["engines/224-x: it was built from another graph"])
    told = {"tensorrt": "engines/224-x: it was built from another graph; build anew: python export/to_trt.py"}
    for nothing in (raising(ModuleNotFoundError()), lambda *_: iter(())):
        gpu.plans = nothing
        assert choose(unfit).refused == told
    assert choose(unfit, "onnxruntime").refused == {}
    gpu.plans = raising(EngineRefused("there is no plan that fits"))
    assert choose(unfit).refused == {"tensorrt": "there is no plan that fits"}
    gpu.plans = lambda *_: iter([Fake("fp16", "tensorrt")])
    assert choose(unfit).refused == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngineRefused("no plan for 224; build one"), "engine=tensorrt, precision=auto: no plan for 224; build one"),
        (
            ModuleNotFoundError("No module named 'tensorrt'"),
            r"No module named 'tensorrt'.*pip install .*\[gpu\]'",
        ),
        (None, "it finds no GPU, or was built without support for one"),
    ],
)
def test_an_engine_that_was_requested_by_name_and_is_not_here_is_refused_with_the_reason(
    gpu: SimpleNamespace, error: Exception | None, message: str
) -> None:
    gpu.plans = raising(error) if error else lambda *_: iter(())
    with pytest.raises(NoEngine, match=message):
        choose(described(), "tensorrt")


def test_wrong_answers_and_failures_lead_to_the_next_engine_and_are_told(gpu: SimpleNamespace) -> None:
    class Liar(Fake):
        answer = 1.0

    class Full(Fake):
        def load(self, side: int) -> None:
            raise EngineRefused(f"the GPU's memory is taken at {side}")

    gpu.plans = lambda *_: iter([Liar("fp16", "tensorrt"), Full("bf16", "tensorrt")])
    chosen = choose(described())
    assert (chosen.name, chosen.loaded) == ("onnxruntime-cuda", ["onnxruntime-cuda f32"])
    assert chosen.refused.keys() == {"tensorrt"}
    assert "tensorrt fp16 gives wrong answers: logits" in chosen.refused["tensorrt"]
    assert "the GPU's memory is taken at 224" in chosen.refused["tensorrt"]
    gpu.cuda = gpu.plans
    gpu.cpu = lambda *_: iter([Fake("lacking", "onnxruntime"), Fake("f32", "onnxruntime")])
    chosen = choose(described())  # what fails on the CPU leaves it as it was
    assert (chosen.name, chosen.precision) == ("onnxruntime", "f32")


def test_an_engine_that_fails_in_one_precision_is_tried_in_the_next(gpu: SimpleNamespace) -> None:
    gpu.plans = lambda *_: iter([Fake("lacking", "tensorrt"), Fake("bf16", "tensorrt")])
    chosen = choose(described())
    assert (chosen.name, chosen.precision, chosen.refused) == ("tensorrt", "bf16", {})
    gpu.plans = lambda *_: iter([Fake("lacking", "tensorrt")])
    with pytest.raises(NoEngine, match=r"engine=tensorrt, precision=auto .*KeyError: 'lacking'") as caught:
        choose(described(), "tensorrt")
    assert type(caught.value) is NoEngine
    assert Fake.loaded == []


def test_an_engine_whose_process_ends_is_out_in_every_precision(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    class Crashing(Fake):
        def load(self, _: int) -> None:
            loaded.append(self.precision)
            raise Crash

    class Crash(BaseException):
        pass

    call = LocalWorker.call

    def call_or_die(worker: LocalWorker, method: str, values: list[Any], arrays: list[Any], **more: object) -> Any:
        try:
            return call(worker, method, values, arrays, **more)
        except Crash as err:
            raise WorkerDied("ended by SIGSEGV") from err

    monkeypatch.setattr(LocalWorker, "call", call_or_die)
    gpu.plans = lambda *_: iter([Crashing("fp16", "tensorrt"), Crashing("bf16", "tensorrt")])
    chosen = choose(described())
    assert chosen.name == "onnxruntime-cuda"
    assert chosen.refused == {"tensorrt": "its process failed while it was started: ended by SIGSEGV"}
    assert loaded == ["fp16"]
    with pytest.raises(EngineFailed, match="the engine cannot start; the log says why"):
        choose(described(), "tensorrt")


def test_a_precision_of_gpus_is_not_promised_to_the_cpu(gpu: SimpleNamespace) -> None:
    gpu.plans = gpu.cuda = lambda *_: iter(())
    with pytest.raises(NoEngine, match=r"fp16 needs an engine for GPUs.*f32 runs everywhere") as caught:
        choose(described(), precision="fp16")
    assert "pip install" not in str(caught.value)


def test_an_engine_that_runs_in_one_precision_is_not_refused_for_another(gpu: SimpleNamespace) -> None:
    class Full(Fake):
        def load(self, side: int) -> None:
            raise EngineRefused(f"the GPU's memory is taken at {side}")

    gpu.plans = lambda *_: iter([Full("fp16", "tensorrt"), Fake("bf16", "tensorrt")])
    chosen = choose(described())
    assert (chosen.name, chosen.refused) == ("tensorrt", {})


def test_an_engine_that_fails_only_when_it_is_timed_is_passed_over_and_closed(gpu: SimpleNamespace) -> None:
    class Weak(Fake):
        def run(self, images: NDArray[np.uint8]) -> Outputs:
            if len(images) > 1:
                raise EngineRefused("out of memory")
            return super().run(images)

    gpu.plans = lambda *_: iter([Weak("fp16", "tensorrt"), Weak("bf16", "tensorrt")])
    chosen = choose(described())
    assert (chosen.name, chosen.loaded) == ("onnxruntime-cuda", ["onnxruntime-cuda f32"])
    assert "out of memory" in chosen.refused["tensorrt"]


def test_the_preferred_engine_is_taken_without_a_comparison_unless_a_higher_tier_serves(gpu: SimpleNamespace) -> None:
    assert choose(described(), prefer=("tensorrt", "fp16")).precision == "fp16"
    assert choose(described(), prefer=("onnxruntime", "f32")).name == "tensorrt"
    gpu.plans = gpu.cuda = lambda *_: iter(())
    gpu.cpu = lambda *_: iter([Fake("bf16", "onnxruntime"), Fake("f32", "onnxruntime")])
    assert choose(described(), prefer=("onnxruntime", "bf16")).precision == "bf16"
    gpu.cpu = lambda *_: iter([Fake("f32", "onnxruntime")])
    assert choose(described(), prefer=("onnxruntime", "bf16")).precision == "f32"


@pytest.mark.usefixtures("gpu")
def test_a_restart_tries_the_engine_that_ran_before_all_others() -> None:
    chosen = choose(described(), restart=("onnxruntime", "f32"))
    assert (chosen.name, chosen.refused) == ("onnxruntime", {})
    chosen = choose(described(), restart=("onnxruntime-cuda", "fp16"))
    assert (chosen.name, chosen.precision) == ("tensorrt", "bf16")
    assert chosen.refused == {"onnxruntime-cuda": "it has f32 here"}


def test_an_error_of_the_bundle_is_raised_unchanged(gpu: SimpleNamespace) -> None:
    class Overwritten(Fake):
        def load(self, side: int) -> None:
            raise BadBundle(f"not the plan for {side}")

    gpu.plans = lambda *_: iter([Overwritten("fp16", "tensorrt")])
    with pytest.raises(BadBundle, match="not the plan for 224"):
        choose(described(), "tensorrt")
    assert choose(described()).refused == {"tensorrt": "not the plan for 224"}
