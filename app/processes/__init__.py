"""Worker processes: calls to an object in another process, with limits and shared memory. Knows nothing of images.

Enters: method names, JSON values and arrays. Leaves: JSON values and arrays.
Runs in: the HTTP process and commands (`worker`, `async_worker`, `process_start`), worker processes (`worker_main`),
both (`channel`, `shared_memory`, `stacks`).
"""
