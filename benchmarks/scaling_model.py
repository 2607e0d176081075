"""A model of machines with more cores: `python -m benchmarks.scaling_model --front-end MS --decoder MS --engine MS`.

Its figures are computed, not measured. It takes the processor time of a request in each kind of process, as
`benchmarks.service_cost --engine null` measures it, and says how many requests a second fit. A front end has one
thread, so N instances spend at most N cores on their front ends; all processes together spend at most all cores. What
it leaves out makes machines slower than it says: clients on the same machine, memory bandwidth, and cores that share
their caches or run slower together.
"""

from typing import Annotated

import pandas as pd
import typer

from benchmarks.command_line import run
from benchmarks.markdown import print_table


def scaling_model(
    front_end: Annotated[float, typer.Option(help="ms of processor time of a request in the HTTP process")],
    decoder: Annotated[float, typer.Option(help="ms in the decoders")],
    engine: Annotated[float, typer.Option(help="ms in the engine's process: with a GPU the cost of its host side")],
    cores: Annotated[str, typer.Option(help="numbers of cores, separated by commas")] = "2,16,64",
    instances: Annotated[str, typer.Option(help="numbers of instances")] = "1,2,4,8,16",
) -> None:
    """Print the requests per second that fit, and what limits them."""
    print("A model, fitted to measured processor times; no such machine was measured.\n")
    rows = [
        {"cores": number, "instances": count, **capacity(number, count, front_end, decoder, engine)}
        for number in map(int, cores.split(","))
        for count in map(int, instances.split(","))
        if count <= number
    ]
    print_table(pd.DataFrame(rows))


def capacity(cores: int, instances: int, front_end: float, decoder: float, engine: float) -> dict[str, object]:
    """Requests per second on `cores`, and what limits them; processor times in ms."""
    limits = {
        "the front ends": 1000 * instances / front_end,
        "the cores": 1000 * cores / (front_end + decoder + engine),
    }
    limit = min(limits, key=limits.__getitem__)
    return {"requests/s": round(limits[limit]), "limited by": limit}


if __name__ == "__main__":
    run(scaling_model, program="benchmarks.scaling_model")
