"""Which engine serves: down the tiers, and in each the fastest of those that work here.

A candidate is an engine in one precision. Each candidate that is tried has a process of its own: whether it crashes,
hangs, leaves its GPU unusable or says why it cannot serve, it is out, with a reason, and the others are not affected.
"""

import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.engines.compiled_cache import open_cache
from app.engines.engine_process.golden_check import golden_mismatch
from app.engines.engine_process.launch import EngineProcess
from app.engines.engine_process.measured_agreement import measured_agreement
from app.engines.interface import EngineRefused
from app.engines.registry import AUTO, GPU_ONLY_PRECISIONS, ON_CPU, PLAN_ENGINE, SLOWER_THAN, TIERS
from app.errors import EngineFailed, NoEngine, WrongAnswers
from app.machine.cpus import has_dot_products
from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from bundle.bundle_errors import ExplainedError
from bundle.installation import install_command
from bundle.precisions import F32, INT8
from bundle.reader import Bundle

log = logging.getLogger(__name__)

_AS_FAST = 1.05  # times the seconds of the fastest: of such engines the one nearer to float32 is taken
_COMPARED_ROUNDS = 5
_COMPARED_SECONDS = 3.0  # after which no more rounds begin

Candidate = tuple[str, str]  # an engine's name and a precision


@dataclass(frozen=True)
class EngineRequest:
    """Which engines may be started.

    Attributes:
        engine: a name in registry.ENGINES, or "auto" for those in its tiers.
        precision: that the engine must have, or "auto".
        prefer: is taken without a comparison if it works, unless an engine of a higher tier does.
        restart: is tried before all others.
        least_agreement: the share of photographs for which a precision that is not named must have float32's best
            class; None is the rule of bundle.agreement.
        null_rate: as EngineFiles has it.
        background: as EngineProcess has it.
    """

    engine: str = AUTO
    precision: str = AUTO
    prefer: Candidate | None = None
    restart: Candidate | None = None
    least_agreement: float | None = None
    null_rate: float = 0.0
    background: bool = False


class EngineSearch:
    """Finds the engine for one resolution of a bundle. Blocking; `stop` may be called from another thread.

    A CPU that has bfloat16 instructions need not be fast with them: so the candidates of a tier are compared by time,
    unless one is preferred, or was found the fastest at an earlier start. What cannot win is left out: a lower tier,
    and float32 where 8 bits work and the CPU has instructions for them. Of two that are as fast the one nearer to
    float32 is taken. Every engine that computes must give the golden logits. A precision that is not asked for by name
    must also agree with float32 on photographs, as the bundle has it.

    Args:
        bundle: has the graphs, plans and golden images.
        resolution: whose engine it is.
        request: which engines may be started.
        memories: as EngineProcess has them.
        seconds: that each step of a candidate may take: its process's start, loading, a comparison.
    """

    def __init__(
        self, bundle: Bundle, resolution: int, request: EngineRequest, memories: Sequence[int] = (), *, seconds: float
    ) -> None:
        self._bundle = bundle
        self._resolution = resolution
        self._request = request
        self._memories = memories
        self._seconds = seconds
        self._golden = bundle.golden(resolution)
        self._store = open_cache({precision: bundle.graph_sha256(precision) for precision in bundle.graphs})
        agreeing = "+".join(p for p in bundle.manifest.agreement if self._fault(ON_CPU[0], p) is None)
        self._note = f"choice-{self._golden.images.shape[1]}-{request.engine}-{request.precision}-{agreeing}"
        self._workers: list[Worker] = []
        self._stopped = False
        self._unused: EngineProcess | None = None  # has loaded nothing yet
        self._offered: dict[str, list[Candidate]] = {}
        self._absent: dict[str, str] = {}  # why there are no candidates where none was to be expected
        self._reasons: dict[str, list[str]] = {}
        self._ran: set[str] = set()
        self._worked: set[Candidate] = set()
        self._tried: set[Candidate] = set()
        self._lost: set[str] = set()  # engines whose process ended or hung
        self._error: ExplainedError | None = None

    @property
    def refused(self) -> dict[str, str]:
        """Why each engine that could be expected to serve does not."""
        return {name: "; ".join(why) for name, why in self._reasons.items() if name not in self._ran}

    def find(self) -> EngineProcess:
        """The process of the engine to take; all other processes have ended.

        Raises what the only candidate raised where there is one: WrongAnswers, BadBundle, or EngineFailed where its
        process ended or hung. Raises NoEngine where there are none or several.
        """
        try:
            process = self._compiled_already(self._search())
        except BaseException:
            self.stop()
            raise
        self._end_unused()
        return process

    def stop(self) -> None:
        """End all processes, the one that was found too. `find` fails then."""
        self._stopped = True
        for worker in list(self._workers):
            worker.kill()

    def _search(self) -> EngineProcess:
        if self._request.restart and (process := self._again(self._request.restart)):
            return process
        for tier in TIERS if self._request.engine == AUTO else ((self._request.engine,),):
            if process := self._best(tier):
                return process
        raise self._failure()

    def _again(self, candidate: Candidate) -> EngineProcess | None:
        """The engine that ran before, if it works still."""
        name, _ = candidate
        if candidate in self._candidates(name):
            return self._try(candidate)
        if name in self._absent:
            self._refuse(name, self._absent[name])
        return None

    def _best(self, tier: Iterable[str]) -> EngineProcess | None:
        """The engine of `tier` to take, if one works. Two are loaded at a time."""
        remembered = self._remembered()
        for preferred in filter(None, (self._request.prefer, remembered)):
            if preferred[0] not in tier or preferred not in self._candidates(preferred[0]):
                continue
            if process := self._try(preferred):
                self._remember(preferred, remembered)
                return process
        best: EngineProcess | None = None
        for candidate in [candidate for name in tier for candidate in self._candidates(name)]:
            if self._cannot_win(candidate):
                continue
            log.info(
                "%s at %d: trying %s %s; later starts try nothing", self._bundle.name, self._resolution, *candidate
            )
            if process := self._try(candidate):
                best = self._faster(best, process) if best else process
        if best:
            self._remember((best.name, best.precision), remembered)
        return best

    def _cannot_win(self, candidate: Candidate) -> bool:
        """Whether the same engine works in a precision that is always faster on this CPU; those are offered first."""
        name, precision = candidate
        faster = (name, SLOWER_THAN.get(precision, ""))
        return name in ON_CPU and faster in self._worked and has_dot_products()

    def _candidates(self, name: str) -> list[Candidate]:
        if name not in self._offered:
            self._offered[name] = [(name, precision) for precision in self._precisions(name)]
        return self._offered[name]

    def _precisions(self, name: str) -> list[str]:
        """The precisions of an engine to try. Listing loads nothing, so one process can list several engines."""
        try:
            self._unused = self._unused or self._spawn()
            precisions, absent, refused = self._unused.offers(name)
        except (WorkerDied, WorkerHung, WorkerFailed) as err:
            self._end_unused()
            self._process_failed(name, err)
            return []
        if refused:
            self._refuse(name, refused)
        elif absent:
            self._absent[name] = absent
        else:
            none = "it finds no GPU, or was built without support for one"
            self._absent[name] = f"it has {', '.join(precisions)} here" if precisions else none
        unfit = self._bundle.plans.unfit.get(self._resolution, [])
        if name == PLAN_ENGINE and unfit and not precisions and not refused:
            # Who keeps plans beside the graph wants to know that they would not do, also where there is no GPU.
            self._refuse(name, f"{'; '.join(unfit)}; build anew: {self._bundle.plan_command(self._resolution)}")
        requested = self._request.precision
        return [p for p in precisions if requested == p or (requested == AUTO and self._agrees(name, p))]

    def _agrees(self, name: str, precision: str) -> bool:
        """Whether the precision answers as float32 does. Plans were compared before they were put into the bundle."""
        if precision == F32 or name == PLAN_ENGINE:
            return True
        fault = self._fault(name, precision)
        if fault is None:
            return True
        log.info(
            "%s %s is not tried at %d: %s; --precision %s takes it all the same",
            name,
            precision,
            self._resolution,
            fault,
            precision,
        )
        return False

    def _fault(self, name: str, precision: str) -> str | None:
        measured = measured_agreement(self._bundle, self._resolution, name, precision)
        return measured.fault(self._request.least_agreement) if measured else "it was not compared with float32"

    def _distance(self, process: EngineProcess) -> float:
        """From float32; infinite if it was not measured."""
        if process.precision == F32:
            return 0
        measured = measured_agreement(self._bundle, self._resolution, process.name, process.precision)
        return measured.distance if measured else math.inf

    def _try(self, candidate: Candidate) -> EngineProcess | None:
        """The candidate's process, which has given the golden logits; None if it does not, or was tried before."""
        name, precision = candidate
        if candidate in self._tried or name in self._lost:
            return None
        self._tried.add(candidate)
        process: EngineProcess | None = None
        try:
            process, self._unused = self._unused or self._spawn(), None
            logits = process.load(name, precision)
            wrong = golden_mismatch(self._golden, logits, name, precision)
            if wrong:
                raise WrongAnswers(f"{name} {precision} gives wrong answers: {wrong}")
        except (EngineRefused, ExplainedError, WorkerDied, WorkerHung, WorkerFailed) as err:
            self._out(candidate, process, err)
            return None
        self._ran.add(name)
        self._worked.add(candidate)
        return process

    def _faster(self, *processes: EngineProcess) -> EngineProcess | None:
        """The one to take, None if all fail; the other one's process has ended.

        It is the one that gives the most images a second, or one that gives about as many and is nearer to float32.

        They are timed in turns, so that other load on the machine hits both alike: one that was timed alone, while its
        rival was not loaded, would be judged by what else ran meanwhile. Threads that wait for more work for a while
        would keep cores busy in their rival's turn, so each turn begins with a run that is not timed.
        """
        seconds: dict[EngineProcess, list[float]] = {process: [] for process in processes}
        began = time.perf_counter()
        for number in range(1 + _COMPARED_ROUNDS):
            for process in list(seconds):
                try:
                    taken = process.time_image()
                except (EngineRefused, ExplainedError, WorkerDied, WorkerHung, WorkerFailed) as err:
                    del seconds[process]
                    self._ran.discard(process.name)
                    self._worked.discard((process.name, process.precision))
                    self._out((process.name, process.precision), process, err)
                else:
                    seconds[process] += [taken] if number else []  # the first call also allocates
            if number and time.perf_counter() - began > _COMPARED_SECONDS:
                break
        for process, times in seconds.items():
            log.info("%s %s: %.1f images/s at %d", process.name, process.precision, 1 / min(times), self._resolution)
        least = min(map(min, seconds.values()), default=0.0)
        as_fast = [process for process, times in seconds.items() if min(times) <= _AS_FAST * least]
        best = min(as_fast, key=lambda process: (self._distance(process), min(seconds[process])), default=None)
        for process in seconds:
            if process is not best:
                process.kill()
        return best

    def _compiled_already(self, process: EngineProcess) -> EngineProcess:
        """An engine in a process that only reads what was compiled, which takes two thirds of the memory."""
        if not process.compiled:
            return process
        candidate = (process.name, process.precision)
        process.kill()
        self._tried.discard(candidate)
        again = self._try(candidate)
        if again is None:
            raise self._failure()
        return again

    def _remembered(self) -> Candidate | None:
        note = self._store and self._store.read_json(self._note)
        return (note[0], note[1]) if note else None

    def _remember(self, chosen: Candidate, remembered: Candidate | None) -> None:
        """Let later starts on this CPU try this candidate only."""
        name, precision = chosen
        if self._store is None or name not in ON_CPU or chosen in (self._request.prefer, remembered):
            return
        if not self.refused.keys() & set(ON_CPU):
            self._store.write_json(self._note, chosen)
        side = self._golden.images.shape[1]
        # What else was tried is not compiled for later.
        self._store.drop(f"*-{side}-compiled-*", but=f"{name}-{precision}-{side}-")

    def _spawn(self) -> EngineProcess:
        return EngineProcess(
            self._bundle,
            self._resolution,
            self._memories,
            seconds=self._seconds,
            null_rate=self._request.null_rate,
            background=self._request.background,
            on_spawn=self._spawned,
        )

    def _spawned(self, worker: Worker) -> None:
        self._workers.append(worker)
        if self._stopped:
            raise WorkerDied("closed meanwhile")

    def _end_unused(self) -> None:
        if self._unused is not None:
            self._unused.kill()
            self._unused = None

    def _out(self, candidate: Candidate, process: EngineProcess | None, err: Exception) -> None:
        """Remember why the candidate does not serve, and end its process."""
        if process is not None:
            process.kill()
        if isinstance(err, WorkerDied | WorkerHung | WorkerFailed):
            self._process_failed(candidate[0], err)
            return
        if isinstance(err, ExplainedError):
            self._error = err
            log.error("%s %s cannot run this model: %s", *candidate, err)
        self._refuse(candidate[0], str(err))

    def _process_failed(self, name: str, err: Exception) -> None:
        """Try nothing more of this engine: a device that hangs takes its time at each attempt."""
        if self._stopped:
            raise err
        log.error("%s at %d: %s's process failed: %s", self._bundle.name, self._resolution, name, err)
        last_line = str(err).strip().rpartition("\n")[2]
        self._lost.add(name)
        self._refuse(name, f"its process failed while it was started: {last_line}")
        if self._request.engine != AUTO:
            self._error = EngineFailed("the engine cannot start; the log says why")

    def _refuse(self, name: str, reason: str) -> None:
        reasons = self._reasons.setdefault(name, [])
        if reason not in reasons:
            reasons.append(reason)

    def _failure(self) -> ExplainedError:
        """What to raise when there is no engine."""
        engine, precision = self._request.engine, self._request.precision
        if len(self._tried) <= 1 and self._error is not None:
            return self._error
        request = f"engine={engine}, precision={precision}"
        reasons = "; ".join(f"{name}: {why}" for name, why in self.refused.items()) or "none could be started"
        if self._tried:
            return NoEngine(f"none of the engines here can run this model for {request} ({reasons}); the log says why")
        if precision.startswith(INT8) and INT8 not in self._bundle.graphs:
            return NoEngine(
                f"no engine here for {request}: the bundle has no graph in 8 bits; export it again with --quantize int8"
            )
        if engine != AUTO:
            return NoEngine(f"no engine here for {request}: {self.refused.get(engine) or self._absent[engine]}")
        advice = f"install one with {install_command('cpu')}, or choose a precision that this machine has"
        if precision in GPU_ONLY_PRECISIONS:
            advice = f"{precision} needs an engine for GPUs, and a GPU that it runs on; choose another precision"
        return NoEngine(f"no engine here for {request}: {advice} (f32 runs everywhere){reasons and f'; {reasons}'}")
