"""The process of an instance. Run as `python -m app.instances.instance_main ASSIGNMENT [OPTION ...]`.

ASSIGNMENT is the JSON of app.instances.assignment; the options are those of `crossvit serve`.
"""

import sys
from functools import partial
from typing import TYPE_CHECKING

from app.instances.assignment import Assignment
from app.machine.signals import outside

if TYPE_CHECKING:
    from app.api.dependencies import Service
    from app.instances.instance_member import InstanceMember


def main() -> int:
    """Serve as one of several instances; the exit status."""
    outside.take()  # before the imports, which take time
    assignment = Assignment.from_json(sys.argv[1])
    assignment.pin()

    from app.configuration.settings import Settings
    from app.server.service_run import run_service
    from bundle.bundle_errors import ExplainedError
    from model.command_line import MISUSED, error

    settings = Settings.from_command_line(sys.argv[2:]).for_one_of(assignment.instances)
    if assignment.number:  # the first instance makes it for all
        settings = settings.model_copy(update={"quantize": None})
    try:
        return run_service(
            settings,
            listeners=assignment.listeners(),
            instance=assignment.number,
            join=partial(_join, assignment),
        )
    except ExplainedError as err:
        error(err)
        return MISUSED


def _join(assignment: Assignment, service: "Service") -> "InstanceMember":
    from app.instances.instance_member import InstanceMember

    service.away = not assignment.accepts
    service.repository.leave_out(assignment.unloaded)
    return InstanceMember(assignment.connection(), service)


if __name__ == "__main__":
    sys.exit(main())
